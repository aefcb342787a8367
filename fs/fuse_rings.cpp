#include "fs/fuse_rings.hpp"

#include <fmt/format.h>
#include <linux/fuse.h>
#include <pthread.h>
#include <sched.h>
#include <sys/sysinfo.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <future>
#include <thread>
#include <utility>

#include "base/assert.hpp"
#include "base/buffer.hpp"
#include "base/ids.hpp"
#include "base/log.hpp"
#include "scheduler/command_ring.hpp"

namespace dynamicfs::fs {
namespace {

// As include/uapi/linux/fuse.h has them since Linux 6.14; the headers of Debian 12 are older.
constexpr std::uint32_t kRegister = 1;
constexpr std::uint32_t kCommitAndFetch = 2;
struct EntryState {
  std::uint64_t flags = 0;
  std::uint64_t commit_id = 0;
  std::uint32_t payload_bytes = 0;
  std::uint32_t padding = 0;
  std::uint64_t reserved = 0;
};
struct Headers {
  std::array<std::byte, 128> in_out;
  std::array<std::byte, 128> op_in;
  EntryState state;
};
static_assert(sizeof(Headers) == 288);
struct CommandBody {
  std::uint64_t flags = 0;
  std::uint64_t commit_id = 0;
  std::uint16_t queue = 0;
  std::array<std::uint8_t, 6> padding{};
};
static_assert(sizeof(CommandBody) == 24);

// Fewer would have requests of several callers on a processor wait for each other.
constexpr std::size_t kEntriesMin = 8;

std::size_t processors() { return static_cast<std::size_t>(::get_nprocs_conf()); }

}  // namespace

class FuseRings::Entry {
 public:
  Entry(Queue& its_queue, std::size_t payload_bytes)
      : queue(its_queue),
        // One block in front for the message's headers, one behind as spare of a WRITE.
        buffer(align_up(payload_bytes, kBlockBytes) + 2 * kBlockBytes),
        memory{{{&headers, sizeof headers}, {buffer.data() + kBlockBytes, payload_bytes}}} {}

  std::byte* payload() { return buffer.data() + kBlockBytes; }

  // The request as one message; nothing if it makes no sense.
  std::span<std::byte> message() {
    fuse_in_header header{};
    std::memcpy(&header, headers.in_out.data(), sizeof header);
    const std::size_t payload_bytes = headers.state.payload_bytes;
    if (payload_bytes > memory[1].iov_len || header.len < sizeof header + payload_bytes) return {};
    const std::size_t op_bytes = header.len - sizeof header - payload_bytes;
    if (op_bytes > headers.op_in.size()) return {};
    std::byte* const op_header = payload() - op_bytes;
    std::memcpy(op_header, headers.op_in.data(), op_bytes);
    std::memcpy(op_header - sizeof header, &header, sizeof header);
    return {op_header - sizeof header, header.len};
  }

  Queue& queue;
  Buffer buffer;
  Headers headers{};
  const std::array<iovec, 2> memory;
  std::uint64_t unique = 0;
  std::uint32_t op = 0;   // the kernel's last command for it
  Entry* next = nullptr;  // among those that were answered
};

std::uint64_t unique_of(const FuseRings::Entry& entry) { return entry.unique; }
std::span<std::byte> memory_of(FuseRings::Entry& entry) { return entry.buffer.span(); }

class FuseRings::Queue {
 public:
  Queue(FuseRings& rings, std::uint16_t number, std::size_t entries)
      : rings_(rings), number_(number) {
    for (std::size_t i = 0; i < entries; ++i)
      entries_.push_back(std::make_unique<Entry>(*this, rings.options_.payload_bytes));
  }
  ~Queue() { DFS_ASSERT(!thread_.joinable()); }

  Result<void> start() {
    std::promise<Result<void>> ready;
    auto made = ready.get_future();
    thread_ = std::thread([this, &ready] { run(ready); });
    const Result<void> result = made.get();
    if (!result.has_value()) thread_.join();
    return result;
  }
  void enlist() {
    is_enlisted_.store(true);
    ring_->wake();
  }
  // `entry` holds its answer.
  void commit(Entry& entry) {
    if (std::this_thread::get_id() == thread_.get_id()) return add_commit(entry);
    rings_.handed_over_.add();
    Entry* first = answered_.load(std::memory_order_relaxed);
    do {
      entry.next = first;
    } while (!answered_.compare_exchange_weak(first, &entry));
    if (is_asleep_.exchange(false)) ring_->wake();
  }
  // Whoever calls this has seen to it that nothing is handled any more; nothing is being handled afterwards.
  void wait_until_stopped() {
    ring_->wake();
    while (!has_stopped_.load()) std::this_thread::sleep_for(std::chrono::milliseconds{1});
  }
  void end() {
    if (!thread_.joinable()) return;
    is_ending_.store(true);
    ring_->wake();
    thread_.join();
  }
  std::size_t entries() const { return entries_.size(); }

 private:
  void run(std::promise<Result<void>>& ready) {
    const std::string name = fmt::format("fuse-ring-{}", number_);
    ::pthread_setname_np(::pthread_self(), name.c_str());
    // The kernel puts a request into the queue of the processor that its caller is on.
    cpu_set_t here;
    CPU_ZERO(&here);
    CPU_SET(number_, &here);
    ::sched_setaffinity(0, sizeof here, &here);
    auto ring = scheduler::CommandRing::create(static_cast<unsigned>(entries_.size()));
    if (!ring.has_value()) return ready.set_value(ring.error());
    ring_ = std::move(*ring);
    ready.set_value({});
    serve();
    ring_.reset();
  }

  void serve() {
    std::vector<scheduler::CommandRing::Completion> done;
    bool is_registered = false;
    while (true) {
      if (is_enlisted_.load() && !std::exchange(is_registered, true)) {
        for (const auto& entry : entries_) add(*entry, kRegister, 0);
      }
      if (rings_.stopping_.load()) has_stopped_.store(true);
      // Before the last look: who answers from here on wakes us.
      is_asleep_.store(true);
      for (Entry* entry = answered_.exchange(nullptr); entry != nullptr;) {
        Entry* const next = entry->next;
        add_commit(*entry);
        entry = next;
      }
      if (is_ending_.load() && answered_.load() == nullptr) {
        ring_->wake();  // what was added goes to the kernel, and nothing is waited for
        ring_->wait(done).ignore("the last answers: there is nobody to be told");
        return;
      }
      const Result<void> waited = ring_->wait(done);
      is_asleep_.store(false);
      if (!waited.has_value()) {
        log_error("fuse ring {}: {}", number_, describe(waited.error()));
        rings_.options_.on_failure();
        std::this_thread::sleep_for(std::chrono::milliseconds{100});
      }
      for (const auto& completion : done)
        take(*static_cast<Entry*>(completion.tag), completion.result);
    }
  }

  void take(Entry& entry, int result) {
    if (result == -EAGAIN || result == -ENOMEM || result == -EINTR) {
      return add(entry, entry.op, entry.unique);
    }
    if (result < 0) return lose(result);
    if (rings_.stopping_.load(std::memory_order_relaxed)) return;
    entry.unique = entry.headers.state.commit_id;
    const std::span<std::byte> message = entry.message();
    if (message.empty()) {
      log_error("fuse ring {}: a request whose lengths make no sense", number_);
      fuse_out_header refusal{.len = sizeof refusal, .error = -EIO, .unique = entry.unique};
      const iovec part{&refusal, sizeof refusal};
      return rings_.answer(entry, {&part, 1});
    }
    rings_.requests_.add();
    const DriverScope scope(rings_.executor_);
    rings_.handler_(entry, message);
  }

  // An entry that the kernel has no use for any more: all of them when it has ended the session.
  void lose(int result) {
    ++lost_;
    if (result == -ENOTCONN || result == -ECONNABORTED || result == -ECANCELED) return;
    log_error("fuse ring {}: {}", number_, describe(system_error(Code::kSystem, -result)));
    // Callers here would wait for ever: an end is better than that.
    if (lost_ == entries_.size()) rings_.options_.on_failure();
  }

  void add_commit(Entry& entry) { add(entry, kCommitAndFetch, entry.unique); }
  void add(Entry& entry, std::uint32_t op, std::uint64_t commit_id) {
    entry.op = op;
    const CommandBody body{.commit_id = commit_id, .queue = number_};
    const Result<void> added = ring_->add({.fd = rings_.options_.device,
                                           .op = op,
                                           .body = std::as_bytes(std::span{&body, 1}),
                                           .memory = entry.memory,
                                           .tag = &entry});
    if (!added.has_value()) lose(added.error().sys_errno == 0 ? -EIO : -added.error().sys_errno);
  }

  FuseRings& rings_;
  const std::uint16_t number_;
  std::vector<std::unique_ptr<Entry>> entries_;
  std::unique_ptr<scheduler::CommandRing> ring_;  // the thread's, made before start() returns
  std::atomic<Entry*> answered_{nullptr};         // by other threads, newest first
  std::atomic<bool> is_asleep_{false};
  std::atomic<bool> is_enlisted_{false};
  std::atomic<bool> has_stopped_{false};
  std::atomic<bool> is_ending_{false};
  std::size_t lost_ = 0;  // entries; the thread's
  std::thread thread_;
};

std::size_t FuseRings::entries_min() { return kEntriesMin * processors(); }

std::size_t FuseRings::entries_per_queue(std::size_t entries) { return entries / processors(); }

FuseRings::FuseRings(Executor& executor, Options options, Handler handler)
    : executor_(executor), options_(options), handler_(std::move(handler)) {}

Result<std::unique_ptr<FuseRings>> FuseRings::start(Executor& executor, Options options,
                                                    Handler handler) {
  std::unique_ptr<FuseRings> rings{new FuseRings(executor, options, std::move(handler))};
  const std::size_t each = entries_per_queue(options.entries);
  for (std::size_t number = 0; number < processors(); ++number) {
    auto queue = std::make_unique<Queue>(*rings, static_cast<std::uint16_t>(number), each);
    if (const Result<void> started = queue->start(); !started.has_value()) {
      rings->end();
      return started.error();
    }
    rings->queues_.push_back(std::move(queue));
  }
  return rings;
}

FuseRings::~FuseRings() { end(); }

void FuseRings::enlist() {
  for (const auto& queue : queues_) queue->enlist();
}

void FuseRings::answer(Entry& entry, std::span<const iovec> parts) {
  DFS_ASSERT(!parts.empty() && parts[0].iov_len == sizeof(fuse_out_header));
  std::memcpy(entry.headers.in_out.data(), parts[0].iov_base, sizeof(fuse_out_header));
  std::size_t used = 0;
  for (const iovec& part : parts.subspan(1)) {
    DFS_ASSERT(part.iov_len <= entry.memory[1].iov_len - used);
    std::memcpy(entry.payload() + used, part.iov_base, part.iov_len);
    used += part.iov_len;
  }
  entry.headers.state.payload_bytes = static_cast<std::uint32_t>(used);
  entry.queue.commit(entry);
}

void FuseRings::stop() {
  stopping_.store(true);
  for (const auto& queue : queues_) queue->wait_until_stopped();
}

void FuseRings::end() {
  for (const auto& queue : queues_) queue->end();
}

std::size_t FuseRings::entries() const {
  std::size_t entries = 0;
  for (const auto& queue : queues_) entries += queue->entries();
  return entries;
}

}  // namespace dynamicfs::fs
