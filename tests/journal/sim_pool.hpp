// A pool on simulated disks, as a small language for tests of the journal: boot, append, sync, cut
// the power, take disks away, boot again.
#pragma once

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "base/buffer.hpp"
#include "base/log.hpp"
#include "base/sim_executor.hpp"
#include "journal/journal.hpp"
#include "journal/pool.hpp"
#include "scheduler/simulated_disk.hpp"
#include "tests/journal/killable_disk.hpp"
#include "tests/support/done.hpp"
#include "tests/support/seed.hpp"

namespace dynamicfs::test {

using journal::DiskHealth;
using journal::Journal;
using journal::Pool;
using scheduler::SimulatedDisk;
using scheduler::SimulatedMedia;

struct Record {
  Lsn lsn;
  std::string text;
  bool operator==(const Record&) const = default;
};
using Records = std::vector<Record>;

inline std::vector<std::string> texts(const Records& records) {
  std::vector<std::string> out;
  for (const Record& record : records) out.push_back(record.text);
  return out;
}

class SimPool {
 public:
  struct Options {
    std::vector<std::uint64_t> disk_bytes;
    journal::Policy policy;
    scheduler::SimulatedLatency latency;
  };
  static Options replicas(std::size_t disks) {
    Options options;
    options.disk_bytes.assign(disks, journal::kVolumeBytesMin);
    options.policy.copies_or_data = static_cast<std::uint8_t>(std::min<std::size_t>(disks, 2));
    return options;
  }

  SimPool(std::uint64_t seed, Options options) : executor(seed), options_(std::move(options)) {
    // Thousands of disks fail here, each worth a line to an operator.
    set_log_level(LogLevel{static_cast<int>(LogLevel::kError) + 1});
    for (std::size_t i = 0; i < options_.disk_bytes.size(); ++i) {
      media.push_back(std::make_shared<SimulatedMedia>(options_.disk_bytes[i]));
      here.push_back(true);
    }
  }
  ~SimPool() { shut(); }
  SimPool(const SimPool&) = delete;
  SimPool& operator=(const SimPool&) = delete;

  Result<Uuid> format() {
    std::vector<std::unique_ptr<SimulatedDisk>> made;
    std::vector<scheduler::Disk*> to_format;
    for (std::size_t i = 0; i < media.size(); ++i) {
      made.push_back(make_disk(i));
      to_format.push_back(made.back().get());
    }
    journal::FormatOptions format_options;
    format_options.policy = options_.policy;
    format_options.label = "test";
    return executor.run(Pool::format(executor, to_format, format_options));
  }

  // Opens pool and journal with the disks that are here. `replayed` has what recovery found.
  Result<void> boot(bool read_only = false) {
    const Result<void> opened = open_pool(read_only);
    if (!opened.has_value()) return opened;
    return open_journal();
  }
  Result<void> open_pool(bool read_only = false) {
    shut();
    disks.assign(media.size(), nullptr);
    Pool::Opening opening;
    opening.read_only = read_only;
    for (std::size_t i = 0; i < media.size(); ++i) {
      if (!here[i]) continue;
      if (!devices.empty()) {
        auto disk = std::make_unique<KillableDisk>(executor, devices[i]);
        users_.push_back(disk.get());
        opening.disks.push_back(std::move(disk));
        continue;
      }
      auto disk = make_disk(i);
      disks[i] = disk.get();
      if (on_new_disk) on_new_disk(i, *disk);
      opening.disks.push_back(std::move(disk));
    }
    // The order in which disks are named must not matter.
    std::ranges::reverse(opening.disks);
    problem = {};
    auto opened = executor.run(Pool::open(executor, std::move(opening), &problem));
    if (!opened.has_value()) {
      disks.assign(media.size(), nullptr);
      return opened.error();
    }
    pool = std::move(opened).value();
    return {};
  }
  Result<void> open_journal() {
    replayed.clear();
    journal::Replay replay;
    replay.apply = [this](Lsn lsn, std::span<const std::byte> payload) {
      replayed.push_back({lsn, std::string{as_text(payload)}});
      return done();
    };
    replay.count_whole = count_whole;
    auto opened = executor.run(Journal::open(executor, *pool, std::move(replay), commit_options));
    if (!opened.has_value()) return opened.error();
    log = std::move(opened).value();
    return {};
  }

  // Ends without a word: what was appended and not synced is lost, but nothing is torn.
  void shut() {
    executor.run_until_idle();
    if (log != nullptr) log->stop();  // a commit may be waiting for room in the log
    executor.run_until_idle();
    log.reset();
    pool.reset();
    disks.clear();
    users_.clear();
  }
  // Every disk loses power at once. Callable from within the simulation.
  void cut_all() {
    for (SimulatedDisk* const disk : disks) {
      if (disk != nullptr) disk->power_cut();
    }
  }
  // ... and then everything is gone but the media.
  void power_cut() {
    cut_all();
    shut();
  }
  // From now on the devices, and their caches, outlive whoever uses them; kill() ends the users
  // alone.
  void keep_devices() {
    for (std::size_t i = 0; i < media.size(); ++i) devices.push_back(make_disk(i));
  }
  void kill() {
    for (KillableDisk* const user : users_) user->kill();
    shut();
  }
  void lose_devices() {
    kill();
    for (const auto& device : devices) device->power_cut();
    executor.run_until_idle();
    devices.clear();
  }
  // Cuts the power before the write or flush with this number, counted over all disks from now on.
  void cut_at_operation(std::uint64_t index) {
    operations = 0;
    cut_index_ = index;
    cut_done = false;
    for (SimulatedDisk* const disk : disks) {
      if (disk != nullptr) watch(*disk);
    }
    on_new_disk = [this](std::size_t, SimulatedDisk& disk) { watch(disk); };
  }
  void reboot_after_power_cut() {
    power_cut();
    REQUIRE(boot().has_value());
  }

  Lsn append(std::string_view text) {
    auto credit = executor.run(log->reserve(1, text.size()));
    return log->append(credit, as_bytes(text));
  }
  Result<void> sync(Lsn lsn) { return executor.run(log->sync(lsn)); }
  Result<void> append_and_sync(std::string_view text) { return sync(append(text)); }

  // Writes a block of data on a disk, without a flush.
  void write_data(std::size_t disk) {
    Buffer block{kBlockBytes};
    std::fill_n(block.data(), block.size(), std::byte{0x5a});
    const DiskId id{static_cast<std::uint16_t>(disk)};
    REQUIRE(executor
                .run(scheduler::write(*disks[disk], scheduler::IoClass::kWrite,
                                      pool->slot_offset(id, SlotId{1}), block.span()))
                .has_value());
  }

  journal::Superblock superblock_on(std::size_t disk) {
    auto made = make_disk(disk);
    auto read = executor.run(journal::read_superblock(*made));
    REQUIRE(read.has_value());
    return std::move(read).value();
  }

  std::unique_ptr<SimulatedDisk> make_disk(std::size_t i) {
    return std::make_unique<SimulatedDisk>(executor, path(i), media[i], executor.random(),
                                           options_.latency);
  }
  static std::string path(std::size_t i) {
    return "/disks/" + std::string(1, static_cast<char>('a' + i));
  }

  SimExecutor executor;
  std::vector<std::shared_ptr<SimulatedMedia>> media;
  std::vector<bool> here;
  std::function<void(std::size_t, SimulatedDisk&)> on_new_disk;
  journal::CommitOptions commit_options;
  std::function<Task<Result<std::size_t>>(std::vector<journal::TailRecord>)> count_whole;

  // Since the last boot; disks[i] is null when it was not here.
  std::vector<SimulatedDisk*> disks;
  std::vector<std::shared_ptr<SimulatedDisk>> devices;
  std::uint64_t operations = 0;  // since cut_at_operation()
  bool cut_done = false;
  std::unique_ptr<Pool> pool;
  std::unique_ptr<Journal> log;
  Pool::Problem problem;
  Records replayed;

 private:
  void watch(SimulatedDisk& disk) {
    disk.on_device_operation([this](std::uint64_t) {
      if (operations++ != cut_index_) return;
      cut_done = true;
      cut_all();
    });
  }

  Options options_;
  std::uint64_t cut_index_ = 0;
  std::vector<KillableDisk*> users_;
};

}  // namespace dynamicfs::test
