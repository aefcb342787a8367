// INV-1: nothing is waited for with a lock held. Whoever tries it ends the process, in every build:
// so each test of this file looks at a child, once without a lock and once with one.
#include <doctest/doctest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <optional>
#include <string>
#include <utility>

#include "base/byte_budget.hpp"
#include "base/executor.hpp"
#include "fs/fuse_session.hpp"
#include "tests/base/dies.hpp"
#include "tests/fs/sim_pool.hpp"

namespace dynamicfs::test {
namespace {

enum class Held { kNothing, kExtents, kMutex };

struct Mounted {
  SimPool pool{1};
  Mutex mutex;  // any one: that of an inode is such
  Mounted() {
    pool.format();
    REQUIRE(pool.mount().has_value());
    REQUIRE(pool.create("file").has_value());
  }

  bool aborts_with(Held held, const std::function<void()>& action) {
    return aborts([&] {
      std::optional<extent::ExtentLocks::Guard> extents;
      std::optional<LockGuard> guard;
      if (held == Held::kExtents) {
        extents.emplace(pool.fs().store().locks().lock(InodeId{2}, FileBlock{0}, 1));
      }
      if (held == Held::kMutex) guard.emplace(mutex);
      action();
    });
  }
  // Whether it is refused with either kind of lock, and not without.
  void needs_no_lock(const std::function<void()>& action) {
    CHECK_FALSE(aborts_with(Held::kNothing, action));
    CHECK(aborts_with(Held::kExtents, action));
    CHECK(aborts_with(Held::kMutex, action));
  }
};

// Its readers hold a mutex while they handle a request.
class HoldingExecutor final : public Executor {
 public:
  explicit HoldingExecutor(SimExecutor& inner) : inner_(inner) {}
  std::atomic<bool> holds{false};

  TimePoint now() const override { return inner_.now(); }
  Duration wall_now() const override { return inner_.wall_now(); }
  std::uint64_t random() override { return inner_.random(); }
  void post(std::coroutine_handle<> handle) override { inner_.post(handle); }
  void post_at(TimePoint when, std::coroutine_handle<> handle) override {
    inner_.post_at(when, handle);
  }

 private:
  void post_to_own_thread(std::coroutine_handle<> handle) override { inner_.post(handle); }
  void enter_driver() override {
    if (!holds) return;
    mutex_.lock();
    held_ = true;
  }
  void leave_driver() override {
    if (std::exchange(held_, false)) mutex_.unlock();
  }
  SimExecutor& inner_;
  Mutex mutex_;
  bool held_ = false;  // the only reader's
};

// What the kernel says, as in its linux/fuse.h, which is fs/'s to include.
constexpr std::uint32_t kGetattr = 3;
constexpr std::uint32_t kInit = 26;
struct InHeader {
  std::uint32_t length = 0;
  std::uint32_t opcode = 0;
  std::uint64_t unique = 0;
  std::uint64_t inode = 1;
  std::uint32_t rest[4] = {};
};
struct OutHeader {
  std::uint32_t length = 0;
  std::int32_t error = 0;
  std::uint64_t unique = 0;
};
struct InitBody {
  std::uint32_t major = 7;
  std::uint32_t minor = 31;
  std::uint32_t max_readahead_bytes = 128 * kKiB;
  std::uint32_t flags = 0;
};
struct GetattrBody {
  std::uint64_t nothing[2] = {};
};

// The kernel's end of a session: a socket that keeps messages apart, as /dev/fuse does.
struct Kernel {
  int session_end = -1;
  int our_end = -1;
  std::uint64_t unique = 0;

  Kernel() {
    int ends[2];
    DFS_ASSERT(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0);
    session_end = ends[0];
    our_end = ends[1];
    const timeval patience{.tv_sec = 20, .tv_usec = 0};
    ::setsockopt(our_end, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  }
  // Whether an answer came.
  template <class Body>
  bool asks(std::uint32_t opcode, const Body& body) {
    InHeader header;
    header.length = sizeof header + sizeof body;
    header.opcode = opcode;
    header.unique = ++unique;
    std::string message(header.length, '\0');
    std::memcpy(message.data(), &header, sizeof header);
    std::memcpy(message.data() + sizeof header, &body, sizeof body);
    DFS_ASSERT(::send(our_end, message.data(), message.size(), 0) ==
               static_cast<ssize_t>(message.size()));
    OutHeader answer;
    return ::recv(our_end, &answer, sizeof answer, 0) == sizeof answer && answer.unique == unique &&
           answer.error == 0;
  }
};

}  // namespace

TEST_SUITE("no lock is held") {
  TEST_CASE_FIXTURE(Mounted, "where a disk is asked, for one request or for several") {
    Buffer block{kBlockBytes};
    needs_no_lock([&] {
      scheduler::IoRequest request;
      request.op = scheduler::IoOp::kRead;
      request.data = block.data();
      request.size_bytes = block.size();
      request.on_complete = [](scheduler::IoRequest&) {};
      pool.disks[0]->submit(request);
      pool.executor.run_for(std::chrono::seconds{1});
    });
    needs_no_lock([&] {
      pool.run(scheduler::read(*pool.disks[0], scheduler::IoClass::kRead, 0, block.span()))
          .ignore("it is there");
    });
  }

  TEST_CASE_FIXTURE(Mounted, "where the journal may be waited for, be there room or not") {
    needs_no_lock([&] { pool.run(pool.fs().journal().reserve(1, 100)); });
    needs_no_lock([&] { pool.run(pool.fs().journal().sync(Lsn{1})).ignore("it is durable"); });
    // Not awaited by anybody: the journal itself looks.
    needs_no_lock([&] {
      spawn([](journal::Journal& journal) -> Task<void> {
        static_cast<void>(co_await journal.reserve(1, 100));
      }(pool.fs().journal()));
    });
  }

  TEST_CASE_FIXTURE(Mounted, "where anything is awaited: time, others, memory") {
    needs_no_lock([&] {
      pool.run([](Executor& executor) -> Task<void> { co_await executor.yield(); }(pool.executor));
    });
    needs_no_lock([&] {
      spawn([](Executor& executor) -> Task<void> {
        co_await executor.sleep(std::chrono::seconds{1});
      }(pool.executor));
    });
    needs_no_lock([&] {
      spawn([](Executor& executor) -> Task<void> {
        ByteBudget budget{executor, kMiB};
        const ByteBudget::Share share = co_await budget.take(kBlockBytes);
      }(pool.executor));
    });
  }

  TEST_CASE_FIXTURE(Mounted, "where a file is read or written") {
    const InodeId inode = pool.resolve("file").value();
    Buffer block{kBlockBytes};
    std::memset(block.data(), 1, block.size());
    needs_no_lock([&] {
      pool.run(pool.fs().write(inode, 0, block.span(), 0, {})).ignore("as before");
      pool.run(pool.fs().fsync(inode)).ignore("as before");
    });
  }

  TEST_CASE_FIXTURE(Mounted, "where the kernel is answered") {
    const auto answers = [&](bool holds) {
      return aborts([&] {
        Kernel kernel;
        HoldingExecutor executor{pool.executor};
        auto started = fs::FuseSession::start(executor, pool.fs(), UniqueFd{kernel.session_end},
                                              {.readers = 1, .write_memory_bytes = kMiB});
        DFS_ASSERT(started.has_value());
        // Never destroyed: the child ends as it is.
        static_cast<void>(std::move(started).value().release());
        const bool met = kernel.asks(kInit, InitBody{});
        executor.holds = holds;
        const bool answered = kernel.asks(kGetattr, GetattrBody{});
        if (!holds && (!met || !answered)) std::abort();
      });
    };
    CHECK_FALSE(answers(false));
    CHECK(answers(true));
  }
}

}  // namespace dynamicfs::test
