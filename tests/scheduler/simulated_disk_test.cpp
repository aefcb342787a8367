// The fault model at the head of scheduler/simulated_disk.hpp, sentence by sentence.
#include "scheduler/simulated_disk.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <random>
#include <set>

#include "base/buffer.hpp"
#include "tests/base/dies.hpp"
#include "tests/support/seed.hpp"

namespace dynamicfs::scheduler {
namespace {

using std::chrono::microseconds;

constexpr std::uint64_t kDiskBytes = 4 * kMiB;
constexpr std::size_t kSector = 512;

// What a range looks like, as one letter per sector: the byte it is filled with, '.' for zero and
// '?' for a sector that is not uniform.
std::string sectors(std::span<const std::byte> bytes) {
  std::string letters;
  for (std::size_t at = 0; at < bytes.size(); at += kSector) {
    const auto sector = bytes.subspan(at, kSector);
    const bool uniform = std::ranges::all_of(sector, [&](std::byte b) { return b == sector[0]; });
    const char letter = static_cast<char>(sector[0]);
    letters += !uniform ? '?' : letter == 0 ? '.' : letter;
  }
  return letters;
}

std::string repeated(char letter, std::size_t count = 8) { return std::string(count, letter); }

struct Machine {
  explicit Machine(std::uint64_t with_seed = 1)
      : seed(with_seed), executor(with_seed), disk(make()) {}
  ~Machine() {
    disk->faults() = {};
    executor.run_until_idle();
  }

  std::unique_ptr<SimulatedDisk> make() {
    return std::make_unique<SimulatedDisk>(executor, "disk", media, seed);
  }
  Result<void> write(std::uint64_t block, char letter, std::size_t blocks = 1,
                     bool durable = false) {
    Buffer buffer(blocks * kBlockBytes);
    std::memset(buffer.data(), letter, buffer.size());
    return executor.run(
        scheduler::write(*disk, IoClass::kWrite, block * kBlockBytes, buffer.span(), durable));
  }
  Result<void> flush() { return executor.run(scheduler::flush(*disk, IoClass::kCritical)); }
  // What the disk answers, "error" if it fails.
  std::string read(std::uint64_t block, std::size_t blocks = 1) {
    Buffer buffer(blocks * kBlockBytes);
    const auto result =
        executor.run(scheduler::read(*disk, IoClass::kRead, block * kBlockBytes, buffer.span()));
    return result ? sectors(buffer.span()) : "error";
  }
  std::string on_media(std::uint64_t block, std::size_t blocks = 1) const {
    Bytes bytes(blocks * kBlockBytes);
    media->read(block * kBlockBytes, bytes);
    return sectors(bytes);
  }
  void power_cut() {
    disk->power_cut();
    executor.run_until_idle();
  }

  std::uint64_t seed;
  SimExecutor executor;
  std::shared_ptr<SimulatedMedia> media = std::make_shared<SimulatedMedia>(kDiskBytes);
  std::unique_ptr<SimulatedDisk> disk;
};

// A write whose submitter does not wait: for what happens while it is at the device.
struct PendingWrite {
  PendingWrite(Machine& machine, std::uint64_t block, char letter, std::size_t blocks = 1,
               bool durable = false)
      : buffer(blocks * kBlockBytes) {
    std::memset(buffer.data(), letter, buffer.size());
    request.op = IoOp::kWrite;
    request.io_class = IoClass::kWrite;
    request.durable = durable;
    request.offset_bytes = block * kBlockBytes;
    request.data = buffer.data();
    request.size_bytes = buffer.size();
    request.owner = this;
    request.on_complete = [](IoRequest& done) {
      ++static_cast<PendingWrite*>(done.owner)->completions;
    };
    machine.disk->submit(request);
  }
  PendingWrite(const PendingWrite&) = delete;
  PendingWrite& operator=(const PendingWrite&) = delete;
  bool done() const { return completions == 1; }

  Buffer buffer;
  IoRequest request;
  int completions = 0;
};

// The outcomes of `scenario` over many seeds.
template <class Scenario>
std::set<std::string> outcomes(Scenario scenario, std::uint64_t seeds = 200) {
  std::set<std::string> all;
  const std::uint64_t first = test::seed_from_environment(1);
  for (std::uint64_t seed = first; seed < first + seeds; ++seed) {
    Machine machine(seed);
    all.insert(scenario(machine));
  }
  return all;
}

TEST_SUITE("simulated_disk") {
  TEST_CASE("what was never written reads as zeros") {
    Machine m;
    CHECK(m.read(0, 2) == repeated('.', 16));
  }

  TEST_CASE("a completed write is what the next read returns, before any flush") {
    Machine m;
    REQUIRE(m.write(1, 'a', 2).has_value());
    CHECK(m.read(0, 4) == repeated('.') + repeated('a', 16) + repeated('.'));
    REQUIRE(m.write(2, 'b').has_value());
    CHECK(m.read(1, 2) == repeated('a') + repeated('b'));
  }

  TEST_CASE("nothing completes inside submit, and everything completes once") {
    Machine m;
    const PendingWrite write(m, 0, 'a');
    CHECK(write.completions == 0);
    m.executor.run_until_idle();
    CHECK(write.completions == 1);
    CHECK(write.request.error == Error{});
  }

  TEST_CASE("each operation takes its time, drawn from the range") {
    Machine m;
    std::set<Duration> taken;
    for (int i = 0; i < 50; ++i) {
      const TimePoint before = m.executor.now();
      REQUIRE(m.write(0, 'a').has_value());
      taken.insert(m.executor.now() - before);
    }
    CHECK(*taken.begin() >= microseconds{50});
    CHECK(*taken.rbegin() <= microseconds{500});
    CHECK(taken.size() > 10);
  }

  TEST_CASE("two runs with the same seeds are the same run, other seeds are another") {
    const auto history = [](std::uint64_t seed) {
      Machine m(seed);
      for (std::uint64_t i = 0; i < 20; ++i) m.write(i, 'a').ignore("no faults are set");
      const std::string when = std::to_string(m.executor.now().since_origin.count());
      m.power_cut();
      return when + m.on_media(0, 20);
    };
    CHECK(history(7) == history(7));
    CHECK(history(7) != history(8));
  }

  TEST_CASE("a write that a flush covers survives the power cut") {
    CHECK(outcomes([](Machine& m) {
            m.write(0, 'a').value();
            m.flush().value();
            m.power_cut();
            return m.on_media(0);
          }) == std::set{repeated('a')});
  }

  TEST_CASE("an unflushed write may be kept, lost, cut short or torn in any pattern of sectors") {
    const auto seen = outcomes([](Machine& m) {
      m.write(0, 'a').value();
      m.flush().value();
      m.write(0, 'b').value();
      m.power_cut();
      return m.on_media(0);
    });
    CHECK(seen.contains(repeated('b')));
    CHECK(seen.contains(repeated('a')));
    CHECK(seen.contains("bbbaaaaa"));
    bool scattered = false;
    for (const std::string& s : seen) {
      CHECK(s.find_first_not_of("ab") == std::string::npos);
      scattered = scattered || s.find("ab") != std::string::npos;
    }
    CHECK(scattered);
  }

  TEST_CASE("the order of unflushed writes is not kept") {
    const auto seen = outcomes([](Machine& m) {
      m.write(0, 'a').value();
      m.write(1, 'b').value();
      m.power_cut();
      return m.on_media(0, 2);
    });
    CHECK(seen.contains(repeated('.') + repeated('b')));
    CHECK(seen.contains(repeated('a') + repeated('.')));
  }

  TEST_CASE("of two unflushed writes to one block the older may be the one that is kept") {
    const auto seen = outcomes([](Machine& m) {
      m.write(0, 'a').value();
      m.write(0, 'b').value();
      m.power_cut();
      return m.on_media(0);
    });
    CHECK(seen.contains(repeated('a')));
    CHECK(seen.contains(repeated('b')));
    CHECK(seen.contains(repeated('.')));
  }

  TEST_CASE("a durable write survives the power cut, and covers nothing but its own range") {
    const auto seen = outcomes([](Machine& m) {
      m.write(1, 'x').value();
      m.write(0, 'a', 1, true).value();
      m.power_cut();
      return m.on_media(0, 2);
    });
    for (const std::string& s : seen) CHECK(s.substr(0, 8) == repeated('a'));
    CHECK(seen.contains(repeated('a') + repeated('.')));
  }

  TEST_CASE("an older cached write never comes back over a durable one") {
    CHECK(outcomes([](Machine& m) {
            m.write(0, 'a', 2).value();
            m.write(0, 'b', 1, true).value();
            m.power_cut();
            return m.on_media(0);
          }) == std::set{repeated('b')});
  }

  TEST_CASE("a flush covers the writes that had completed when it was submitted, and no other") {
    const auto seen = outcomes([](Machine& m) {
      m.write(0, 'a').value();
      bool flushed = false;
      struct Flush {
        static Task<void> run(Disk& disk, bool* done) {
          const auto result = co_await scheduler::flush(disk, IoClass::kBackground);
          *done = result.has_value();
        }
      };
      spawn(Flush::run(*m.disk, &flushed));
      m.write(1, 'b').value();
      const std::string order = flushed ? "after it: " : "while it ran: ";
      m.executor.run_until_idle();
      REQUIRE(flushed);
      CHECK(m.disk->needs_flush());
      m.power_cut();
      CHECK(m.on_media(0) == repeated('a'));
      return order + m.on_media(1);
    });
    // Also the one that completed before the flush did.
    for (const std::string order : {"while it ran: ", "after it: "}) {
      CHECK(seen.contains(order + repeated('.')));
      CHECK(seen.contains(order + repeated('b')));
    }
  }

  TEST_CASE("a write in flight at the cut may be kept, lost or torn, even a durable one") {
    for (const bool durable : {false, true}) {
      const auto seen = outcomes([durable](Machine& m) {
        const PendingWrite write(m, 0, 'a', 1, durable);
        m.power_cut();
        CHECK(write.done());
        CHECK(write.request.error.code == Code::kDiskGone);
        return m.on_media(0);
      });
      CHECK(seen.contains(repeated('a')));
      CHECK(seen.contains(repeated('.')));
      CHECK(seen.size() > 3);
    }
  }

  TEST_CASE("a write that waits in the queue at the cut never reached the device") {
    CHECK(outcomes([](Machine& m) {
            m.disk = std::make_unique<SimulatedDisk>(m.executor, "disk", m.media, m.seed,
                                                     SimulatedLatency{}, 1);
            const PendingWrite at_device(m, 0, 'a');
            const PendingWrite queued(m, 1, 'b');
            m.power_cut();
            CHECK(queued.request.error.code == Code::kDiskGone);
            return m.on_media(1);
          }) == std::set{repeated('.')});
  }

  TEST_CASE("after the cut every request of the old object is refused, and the media stays") {
    Machine m;
    m.write(0, 'a').value();
    m.flush().value();
    m.power_cut();
    CHECK(m.disk->failed());
    CHECK(m.write(0, 'b').error() == error(Code::kDiskGone));
    CHECK(m.flush().error() == error(Code::kDiskGone));
    CHECK(m.read(0) == "error");
    m.disk = m.make();
    CHECK(m.read(0) == repeated('a'));
  }

  TEST_CASE("after the cut and an idle executor nothing is left of a hundred requests") {
    for (const bool hung : {false, true}) {
      Machine m;
      std::vector<std::unique_ptr<PendingWrite>> writes;
      for (std::uint64_t i = 0; i < 100; ++i) {
        writes.push_back(std::make_unique<PendingWrite>(m, i, 'a'));
      }
      m.disk->faults().hung = hung;
      m.executor.run_for(microseconds{200});
      m.power_cut();
      for (const auto& write : writes) CHECK(write->completions == 1);
      m.disk.reset();
      m.disk = m.make();
    }
  }

  TEST_CASE("a disk that is destroyed under its requests is a mistake of ours") {
    CHECK(test::aborts([] {
      Machine m;
      const PendingWrite write(m, 0, 'a');
      m.disk.reset();
    }));
  }

  TEST_CASE("the hook sees every write and flush in order and may cut the power at any of them") {
    for (std::uint64_t cut_at = 0; cut_at < 6; ++cut_at) {
      Machine m;
      std::vector<std::uint64_t> seen;
      m.disk->on_device_operation([&](std::uint64_t operation) {
        seen.push_back(operation);
        if (operation == cut_at) m.disk->power_cut();
      });
      std::uint64_t succeeded = 0;
      for (std::uint64_t i = 0; i < 3; ++i) {
        if (m.write(i, 'a').has_value()) ++succeeded;
        m.read(i);
        if (m.flush().has_value()) ++succeeded;
      }
      CHECK(succeeded == cut_at);
      CHECK(seen.size() == cut_at + 1);
      CHECK(seen.back() == cut_at);
      CHECK(m.disk->device_operations() == cut_at + 1);
      // What was flushed before the cut is there.
      for (std::uint64_t i = 0; i < cut_at / 2; ++i) CHECK(m.on_media(i) == repeated('a'));
    }
  }

  TEST_CASE("the write at whose hook the power goes may be kept, lost or torn") {
    const auto seen = outcomes([](Machine& m) {
      m.disk->on_device_operation([&m](std::uint64_t) { m.disk->power_cut(); });
      CHECK(m.write(0, 'a').error() == error(Code::kDiskGone));
      m.executor.run_until_idle();
      return m.on_media(0);
    });
    CHECK(seen.contains(repeated('a')));
    CHECK(seen.contains(repeated('.')));
    CHECK(seen.size() > 3);
  }

  TEST_CASE("the n-th read fails, once") {
    Machine m;
    m.write(0, 'a').value();
    int reads = 0;
    m.disk->faults().fail = [&](const IoRequest& request) {
      return request.op == IoOp::kRead && ++reads == 2 ? Code::kDiskRead : Code::kOk;
    };
    CHECK(m.read(0) == repeated('a'));
    Buffer buffer(kBlockBytes);
    const auto result = m.executor.run(scheduler::read(*m.disk, IoClass::kRead, 0, buffer.span()));
    CHECK(result.error() == system_error(Code::kDiskRead, EIO, 0));
    CHECK(sectors(buffer.span()) != repeated('a'));
    CHECK(m.read(0) == repeated('a'));
    CHECK(m.disk->metrics().classes[static_cast<std::size_t>(IoClass::kRead)].errors.sum() == 1);
  }

  TEST_CASE("a full host file system answers kDiskWrite with ENOSPC") {
    Machine m;
    m.disk->faults().fail = [](const IoRequest& request) {
      return request.op == IoOp::kWrite ? Code::kNoSpace : Code::kOk;
    };
    CHECK(m.write(3, 'a').error() == system_error(Code::kDiskWrite, ENOSPC, 3 * kBlockBytes));
  }

  TEST_CASE("a failed write leaves the range as after a torn write, durable or not") {
    for (const bool durable : {false, true}) {
      const auto seen = outcomes([durable](Machine& m) {
        m.write(0, 'a').value();
        m.flush().value();
        m.disk->faults().fail = [](const IoRequest& request) {
          return request.op == IoOp::kWrite ? Code::kDiskWrite : Code::kOk;
        };
        CHECK(m.write(0, 'b', 1, durable).error() == system_error(Code::kDiskWrite, EIO, 0));
        return m.read(0);
      });
      CHECK(seen.size() > 3);
      for (const std::string& s : seen) CHECK(s.find_first_not_of("ab") == std::string::npos);
    }
  }

  TEST_CASE("a write that flushes covers itself and what had completed when it was submitted") {
    struct Flush {
      static Task<Result<void>> run(Disk& disk, std::span<const std::byte> data) {
        IoGroup group;
        group.write_and_flush(disk, IoClass::kCritical, 2 * kBlockBytes, data);
        co_await group.run();
        co_return group.result();
      }
    };
    Machine m;
    m.write(0, 'a').value();
    Buffer data(kBlockBytes);
    std::ranges::fill(data.span(), static_cast<std::byte>('c'));
    CHECK(m.executor.run(Flush::run(*m.disk, data.span())).has_value());
    CHECK_FALSE(m.disk->needs_flush());
    m.power_cut();
    CHECK(m.on_media(0) == repeated('a'));
    CHECK(m.on_media(2) == repeated('c'));
  }

  TEST_CASE("a failed flush loses a random part of the cache, and the next flush lies") {
    const auto seen = outcomes([](Machine& m) {
      m.write(0, 'a').value();
      m.write(1, 'b').value();
      bool once = true;
      m.disk->faults().fail = [&once](const IoRequest& request) {
        return request.op == IoOp::kFlush && std::exchange(once, false) ? Code::kDiskFlush
                                                                        : Code::kOk;
      };
      CHECK(m.flush().error() == system_error(Code::kDiskFlush, EIO, 0));
      CHECK(m.disk->needs_flush());
      CHECK(m.flush().has_value());
      CHECK_FALSE(m.disk->needs_flush());
      const std::string answered = m.read(0, 2);
      m.power_cut();
      CHECK(m.on_media(0, 2) == answered);
      return answered;
    });
    CHECK(seen == std::set{repeated('a') + repeated('b'), repeated('a') + repeated('.'),
                           repeated('.') + repeated('b'), repeated('.', 16)});
  }

  TEST_CASE("a lost write is acknowledged and not stored") {
    Machine m;
    m.write(0, 'a').value();
    m.disk->faults().lose = [](const IoRequest&) { return true; };
    CHECK(m.write(0, 'b').has_value());
    CHECK(m.flush().has_value());
    CHECK_FALSE(m.disk->needs_flush());
    CHECK(m.read(0) == repeated('a'));
  }

  TEST_CASE("a misdirected write is stored elsewhere") {
    Machine m;
    m.write(5, 'x').value();
    m.disk->faults().misdirect = [](const IoRequest& request) {
      return request.offset_bytes == 0 ? 5 * kBlockBytes : request.offset_bytes;
    };
    CHECK(m.write(0, 'a').has_value());
    CHECK(m.write(1, 'b').has_value());
    CHECK(m.read(0) == repeated('.'));
    CHECK(m.read(1) == repeated('b'));
    CHECK(m.read(5) == repeated('a'));
  }

  TEST_CASE("a flipped bit is one wrong bit") {
    Machine m;
    m.write(0, 'a').value();
    m.flush().value();
    m.media->flip(1000, 3);
    Buffer buffer(kBlockBytes);
    m.executor.run(scheduler::read(*m.disk, IoClass::kRead, 0, buffer.span())).value();
    for (std::size_t i = 0; i < kBlockBytes; ++i) {
      const auto expected = static_cast<std::byte>(i == 1000 ? 'a' ^ 8 : 'a');
      REQUIRE(buffer.data()[i] == expected);
    }
  }

  TEST_CASE("a hung disk keeps its requests until it is released, and takes new ones") {
    Machine m;
    m.disk->faults().hung = true;
    const PendingWrite before(m, 0, 'a');
    m.executor.run_for(std::chrono::seconds{60});
    const PendingWrite during(m, 1, 'b');
    m.executor.run_for(std::chrono::seconds{60});
    CHECK_FALSE(before.done());
    CHECK_FALSE(during.done());
    m.disk->release();
    m.executor.run_until_idle();
    CHECK(before.done());
    CHECK(during.done());
    CHECK(m.read(0, 2) == repeated('a') + repeated('b'));
  }

  TEST_CASE("fail() refuses what waits and what comes, and waits for reads alone") {
    Machine m;
    m.disk =
        std::make_unique<SimulatedDisk>(m.executor, "disk", m.media, m.seed, SimulatedLatency{}, 1);
    const PendingWrite at_device(m, 0, 'a');
    const PendingWrite queued(m, 1, 'b');
    m.disk->fail();
    CHECK(m.disk->failed());
    const PendingWrite late(m, 2, 'c');
    CHECK(late.request.error.code == Code::kDiskGone);
    m.executor.run_until_idle();
    CHECK(at_device.completions == 1);
    CHECK(at_device.request.error.code == Code::kDiskGone);
    CHECK(queued.completions == 1);
    CHECK(queued.request.error.code == Code::kDiskGone);
  }

  TEST_CASE(
      "fail() ends the writes of a hung disk, which then holds them whole, torn or not at all") {
    Machine m;
    m.disk->faults().hung = true;
    const PendingWrite write(m, 0, 'a');
    m.executor.run_for(std::chrono::seconds{1});
    CHECK_FALSE(write.done());
    m.disk->fail();
    m.executor.run_until_idle();
    CHECK(write.completions == 1);
    CHECK(write.request.error.code == Code::kDiskGone);
    m.disk->release();
    m.executor.run_until_idle();
    CHECK(write.completions == 1);
  }

  TEST_CASE("a range behind the end is an error, not a crash, and does not touch the disk") {
    Machine m;
    const std::uint64_t end = kDiskBytes / kBlockBytes;
    CHECK(m.write(end - 1, 'a').has_value());
    CHECK(m.write(end - 1, 'a', 2).error() == error(Code::kDiskRange, kDiskBytes - kBlockBytes));
    CHECK(m.write(end, 'a').error().code == Code::kDiskRange);
    CHECK(m.write(~std::uint64_t{0} / kBlockBytes, 'a').error().code == Code::kDiskRange);
    CHECK(m.disk->device_operations() == 1);
  }

  TEST_CASE("needs_flush is true from a write that is not durable to the next flush") {
    Machine m;
    CHECK_FALSE(m.disk->needs_flush());
    m.write(0, 'a', 1, true).value();
    CHECK_FALSE(m.disk->needs_flush());
    m.write(1, 'b').value();
    CHECK(m.disk->needs_flush());
    m.flush().value();
    CHECK_FALSE(m.disk->needs_flush());
  }

  TEST_CASE("a clone of the media is another future of the same past") {
    Machine m;
    m.write(0, 'a').value();
    m.flush().value();
    SimulatedMedia clone = m.media->clone();
    m.media->write(0, Bytes(kBlockBytes, std::byte{'b'}));
    clone.write(kSector, Bytes(kSector, std::byte{'c'}));
    Bytes of_clone(kBlockBytes);
    clone.read(0, of_clone);
    CHECK(sectors(of_clone) == "acaaaaaa");
    CHECK(m.on_media(0) == repeated('b'));
  }

  TEST_CASE("the metrics count requests, bytes and what is at the device") {
    Machine m;
    m.write(0, 'a', 2).value();
    m.read(0);
    m.flush().value();
    const PendingWrite pending(m, 0, 'b');
    const DiskMetrics& metrics = m.disk->metrics();
    CHECK(metrics.writes.sum() == 2);
    CHECK(metrics.written_bytes.sum() == 3 * kBlockBytes);
    CHECK(metrics.reads.sum() == 1);
    CHECK(metrics.flushes.sum() == 1);
    const ClassMetrics& writes = metrics.classes[static_cast<std::size_t>(IoClass::kWrite)];
    CHECK(writes.completed.sum() == 1);
    CHECK(writes.bytes.sum() == 2 * kBlockBytes);
    CHECK(writes.in_flight.load() == 1);
    CHECK(writes.queued.load() == 0);
    CHECK(writes.latency_us.count() == 1);
    CHECK(writes.latency_us.sum() >= 50);
    m.executor.run_until_idle();
    CHECK(writes.in_flight.load() == 0);
  }

  TEST_CASE(
      "random writes, flushes, failures and cuts: every block is a version that was possible") {
    const std::uint64_t first = test::seed_from_environment(1);
    for (std::uint64_t seed = first; seed < first + test::scaled(50); ++seed) {
      CAPTURE(seed);
      Machine m(seed);
      std::mt19937_64 random(seed);
      constexpr std::uint64_t kBlocks = 16;
      // Letters each sector of a block may show after a cut: the flushed one and all written since.
      std::array<std::set<char>, kBlocks> possible;
      std::array<char, kBlocks> newest{};
      for (std::uint64_t b = 0; b < kBlocks; ++b) {
        possible[b] = {'.'};
        newest[b] = '.';
      }
      for (int round = 0; round < 5; ++round) {
        for (int step = 0; step < 40; ++step) {
          const std::uint64_t block = random() % kBlocks;
          const std::size_t count = 1 + random() % std::min<std::uint64_t>(3, kBlocks - block);
          const char letter = static_cast<char>('A' + random() % 26);
          switch (random() % 4) {
            case 0: {
              const bool durable = random() % 4 == 0;
              m.write(block, letter, count, durable).value();
              for (std::uint64_t b = block; b < block + count; ++b) {
                if (durable) possible[b].clear();
                possible[b].insert(letter);
                newest[b] = letter;
              }
              break;
            }
            case 1:
              if (random() % 4 != 0) break;
              m.flush().value();
              for (std::uint64_t b = 0; b < kBlocks; ++b) possible[b] = {newest[b]};
              break;
            default: {
              const std::string got = m.read(block, count);
              for (std::uint64_t b = 0; b < count; ++b) {
                REQUIRE(got.substr(b * 8, 8) == repeated(newest[block + b]));
              }
            }
          }
        }
        m.power_cut();
        m.disk = m.make();
        for (std::uint64_t b = 0; b < kBlocks; ++b) {
          const std::string got = m.on_media(b);
          for (const char letter : got) REQUIRE(possible[b].contains(letter));
          // Go on from a state without tears, to keep the model one letter per block.
          m.write(b, 'z', 1, true).value();
          possible[b] = {'z'};
          newest[b] = 'z';
        }
      }
    }
  }
}

}  // namespace
}  // namespace dynamicfs::scheduler
