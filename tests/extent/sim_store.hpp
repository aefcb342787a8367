// A store on simulated disks with the real journal, and the least of a file system above it: files
// are maps by inode number, blocks carry (inode, block, version) so that a torn, stale or foreign
// one is noticed wherever it turns up.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/buffer.hpp"
#include "base/log.hpp"
#include "base/sim_executor.hpp"
#include "extent/store.hpp"
#include "scheduler/simulated_disk.hpp"
#include "tests/support/done.hpp"

namespace dynamicfs::test {

using scheduler::SimulatedDisk;
using scheduler::SimulatedMedia;

// What a block of a file says about itself.
struct Stamp {
  std::uint64_t inode = 0;
  std::uint64_t block = 0;
  std::uint64_t version = 0;  // 0: a hole
  bool operator==(const Stamp&) const = default;
};

inline void stamp_block(std::byte* at, const Stamp& stamp) {
  const std::uint64_t seed = stamp.inode * 1'000'003 + stamp.block * 7919 + stamp.version;
  for (std::size_t i = 0; i < kBlockBytes; i += 8)
    store<std::uint64_t>(at + i, seed ^ (i * 0x9e3779b97f4a7c15));
  store(at, stamp.inode);
  store(at + 8, stamp.block);
  store(at + 16, stamp.version);
}

// Nothing if the block is not, in every byte, what stamp_block() wrote, or zeros.
inline std::optional<Stamp> read_stamp(const std::byte* at) {
  const Stamp stamp{load<std::uint64_t>(at), load<std::uint64_t>(at + 8),
                    load<std::uint64_t>(at + 16)};
  std::array<std::byte, kBlockBytes> expected{};
  if (stamp != Stamp{}) stamp_block(expected.data(), stamp);
  if (std::memcmp(at, expected.data(), kBlockBytes) != 0) return std::nullopt;
  return stamp;
}

inline Buffer stamped(std::uint64_t inode, std::uint64_t first, std::uint64_t count,
                      std::uint64_t version) {
  Buffer data{count * kBlockBytes};
  for (std::uint64_t i = 0; i < count; ++i) {
    stamp_block(data.data() + i * kBlockBytes, {inode, first + i, version});
  }
  return data;
}

// Of consecutive blocks, as stamp_block() has them; 0: a hole.
using Versions = std::vector<std::uint64_t>;
inline Versions times(std::size_t count, std::uint64_t version) { return Versions(count, version); }

struct SimStoreOptions {
  std::vector<std::uint64_t> disk_bytes = {64 * kMiB, 64 * kMiB};
  journal::Policy policy{.copies_or_data = 2};
  scheduler::SimulatedLatency latency;
};

class SimStore {
 public:
  explicit SimStore(std::uint64_t seed, SimStoreOptions options = {})
      : executor(seed), options_(std::move(options)) {
    // Disks fail here on purpose, each worth a line to an operator.
    set_log_level(LogLevel{static_cast<int>(LogLevel::kError) + 1});
    for (const std::uint64_t bytes : options_.disk_bytes) {
      media.push_back(std::make_shared<SimulatedMedia>(bytes));
    }
    auto opened = open_disks();
    std::vector<scheduler::Disk*> plain;
    for (auto& disk : opened) plain.push_back(disk.get());
    const auto uuid =
        executor.run(journal::Pool::format(executor, plain, {options_.policy, "test"}));
    REQUIRE(uuid.has_value());
    opened.clear();
    boot();
  }
  ~SimStore() { shut(); }
  SimStore(const SimStore&) = delete;
  SimStore& operator=(const SimStore&) = delete;

  void boot() {
    Result<void> booted = try_boot();
    REQUIRE(booted.has_value());
  }
  Result<void> try_boot() {
    auto opened = open_disks();
    disks.clear();
    for (auto& disk : opened) disks.push_back(disk.get());
    journal::Pool::Opening opening;
    for (auto& disk : opened) opening.disks.push_back(std::move(disk));
    journal::Pool::Problem problem;
    auto pool_opened = executor.run(journal::Pool::open(executor, std::move(opening), &problem));
    if (!pool_opened.has_value()) return pool_opened.error();
    pool = std::move(pool_opened).value();
    eras = std::make_unique<journal::Eras>();
    store = std::make_unique<extent::Store>(executor, *pool, gate, *eras);
    journal::Replay replay;
    replay.apply = [this](Lsn lsn, std::span<const std::byte> payload) {
      return done(apply(lsn, payload));
    };
    replay.count_whole = [this](std::vector<journal::TailRecord> tail) {
      return count_whole(this, std::move(tail));
    };
    auto log_opened = executor.run(journal::Journal::open(executor, *pool, std::move(replay)));
    if (!log_opened.has_value()) return log_opened.error();
    log = std::move(log_opened).value();
    for (const auto& [inode, map] : files) store->note_reserved(map->reserved_blocks());
    store->start(*log);
    return {};
  }
  void shut() {
    executor.run_until_idle();
    if (log != nullptr) log->stop();
    executor.run_until_idle();
    log.reset();
    files.clear();
    store.reset();
    pool.reset();
    disks.clear();
  }
  void power_cut() {
    for (SimulatedDisk* const disk : disks) disk->power_cut();
    shut();
  }

  extent::FileMap& file(std::uint64_t inode) {
    auto& map = files[inode];
    if (map == nullptr) map = std::make_unique<extent::FileMap>(store->map_context());
    return *map;
  }

  // What a file system does.

  static Task<Result<Lsn>> write_task(SimStore* self, std::uint64_t inode, std::uint64_t first,
                                      std::uint64_t count, std::uint64_t version) {
    const Buffer data = stamped(inode, first, count, version);
    extent::FileMap& map = self->file(inode);
    extent::WriteHint hint;
    hint.inode = InodeId{inode};
    hint.first = FileBlock{first};
    hint.policy = self->pool->policy();
    hint.replaced_blocks = count - map.holes(FileBlock{first}, count);
    CO_TRY_ASSIGN(const extent::Written written, co_await self->store->write(hint, data.span()));
    journal::Credit credit = co_await self->log->reserve(1, 8 * kKiB);
    extent::Freed freed;
    Lsn lsn;
    {
      const journal::ChangeScope scope(self->gate);
      const auto guard = self->store->locks().lock(InodeId{inode}, FileBlock{first}, count);
      Bytes record;
      ByteWriter writer(record);
      extent::encode(writer, InodeId{inode}, FileBlock{first}, written.pieces, written.crcs);
      lsn = self->log->append(credit, record,
                              written.striped ? journal::RecordOrder::kBehindData
                                              : journal::RecordOrder::kBesideData);
      map.put(FileBlock{first}, written.pieces, written.crcs, Generation{lsn.raw}, freed);
      self->store->publish(written);
      self->store->free(freed, lsn);
    }
    co_return lsn;
  }
  static Task<Lsn> clear_task(SimStore* self, std::uint64_t inode, std::uint64_t first,
                              std::uint64_t count) {
    journal::Credit credit = co_await self->log->reserve(1, 100);
    extent::Freed freed;
    Lsn lsn;
    {
      const journal::ChangeScope scope(self->gate);
      const auto guard = self->store->locks().lock(InodeId{inode}, FileBlock{first}, count);
      Bytes record;
      ByteWriter writer(record);
      extent::encode(writer, extent::ExtentClear{InodeId{inode}, FileBlock{first}, count});
      lsn = self->log->append(credit, record);
      self->file(inode).clear(FileBlock{first}, count, freed);
      self->store->free(freed, lsn);
    }
    co_return lsn;
  }
  static Task<Result<void>> reserve_task(SimStore* self, std::uint64_t inode, std::uint64_t first,
                                         std::uint64_t count) {
    CO_TRY(co_await self->store->promise(count, self->pool->policy()));
    journal::Credit credit = co_await self->log->reserve(1, 100);
    std::uint64_t taken = 0;
    {
      const journal::ChangeScope scope(self->gate);
      const auto guard = self->store->locks().lock(InodeId{inode}, FileBlock{first}, count);
      Bytes record;
      ByteWriter writer(record);
      extent::encode(writer, extent::ExtentReserve{InodeId{inode}, FileBlock{first}, count});
      const Lsn lsn = self->log->append(credit, record);
      taken = self->file(inode).reserve(FileBlock{first}, count, Generation{lsn.raw});
    }
    if (taken < count) self->store->unpromise(count - taken);
    co_return Result<void>{};
  }
  static Task<Result<Buffer>> read_task(SimStore* self, std::uint64_t inode, std::uint64_t first,
                                        std::uint64_t count) {
    Buffer data{count * kBlockBytes};
    std::fill_n(data.data(), data.size(), std::byte{0xa5});
    CO_TRY(co_await self->store->read(self->file(inode), InodeId{inode}, FileBlock{first}, data,
                                      scheduler::IoClass::kRead));
    co_return data;
  }
  // Releases what has become safe, all of it.
  static Task<void> settle_task(SimStore* self) {
    for (int i = 0; i < 4; ++i) {
      co_await self->store->reclaim();
      const auto drained = co_await self->log->drain();
      REQUIRE(drained.has_value());
    }
    co_await self->store->reclaim();
  }

  Result<Lsn> write(std::uint64_t inode, std::uint64_t first, std::uint64_t count,
                    std::uint64_t version) {
    return executor.run(write_task(this, inode, first, count, version));
  }
  void clear(std::uint64_t inode, std::uint64_t first, std::uint64_t count) {
    executor.run(clear_task(this, inode, first, count));
  }
  Result<void> sync() { return executor.run(log->sync(log->appended())); }
  void settle() { executor.run(settle_task(this)); }

  // Reads and returns the versions, checking that every block is whole and belongs there.
  Result<std::vector<std::uint64_t>> read(std::uint64_t inode, std::uint64_t first,
                                          std::uint64_t count) {
    auto data = executor.run(read_task(this, inode, first, count));
    if (!data.has_value()) return data.error();
    return versions(*data, inode, first);
  }
  // The same while that disk has something else to do, so that another copy is the first choice.
  Result<std::vector<std::uint64_t>> read_avoiding(std::size_t disk, std::uint64_t inode,
                                                   std::uint64_t first, std::uint64_t count) {
    spawn(distract(disks[disk]));
    return read(inode, first, count);
  }
  static Task<void> distract(SimulatedDisk* disk) {
    Buffer block{kBlockBytes};
    const auto result = co_await scheduler::read(*disk, scheduler::IoClass::kRead, 0, block.span());
    result.ignore("only the time it takes matters");
  }
  static std::vector<std::uint64_t> versions(const Buffer& data, std::uint64_t inode,
                                             std::uint64_t first) {
    std::vector<std::uint64_t> out;
    for (std::size_t i = 0; i * kBlockBytes < data.size(); ++i) {
      const std::optional<Stamp> stamp = read_stamp(data.data() + i * kBlockBytes);
      REQUIRE(stamp.has_value());
      if (stamp->version != 0) {
        REQUIRE(stamp->inode == inode);
        REQUIRE(stamp->block == first + i);
      }
      out.push_back(stamp->version);
    }
    return out;
  }

  // Below.

  // Where a block lies: one entry per copy.
  struct Location {
    std::size_t disk;
    std::uint64_t offset_bytes;
  };
  std::vector<Location> locate(std::uint64_t inode, std::uint64_t block) {
    extent::MappingSet set;
    file(inode).snapshot(FileBlock{block}, 1, set);
    REQUIRE(set.mappings.size() == 1);
    std::vector<Location> out;
    for (const extent::ChunkPut& chunk : store->chunks()) {
      const std::uint32_t column = set.mappings[0].chunk.raw - chunk.chunk.raw;
      if (column >= chunk.columns()) continue;
      if (chunk.columns() > 1) {
        const extent::Place& place = chunk.places[column];
        out.push_back({place.disk.raw, pool->slot_offset(place.disk, place.slot) +
                                           set.mappings[0].block * kBlockBytes});
        break;
      }
      for (const extent::Place& place : chunk.places) {
        out.push_back({place.disk.raw, pool->slot_offset(place.disk, place.slot) +
                                           set.mappings[0].block * kBlockBytes});
      }
    }
    return out;
  }
  // Puts everything written so far on the media and damages one copy there.
  void damage(const Location& at) {
    REQUIRE(
        executor.run(scheduler::flush(*disks[at.disk], scheduler::IoClass::kCritical)).has_value());
    media[at.disk]->flip(at.offset_bytes + 1234, 3);
  }
  bool is_data(std::size_t disk, const scheduler::IoRequest& request) const {
    return scheduler::moves_data(request.op) &&
           request.offset_bytes >=
               pool->slot_offset(DiskId{static_cast<std::uint16_t>(disk)}, SlotId{0});
  }

  SimExecutor executor;
  std::vector<std::shared_ptr<SimulatedMedia>> media;
  std::vector<SimulatedDisk*> disks;
  journal::ChangeGate gate;
  std::unique_ptr<journal::Eras> eras;
  std::unique_ptr<journal::Pool> pool;
  std::unique_ptr<extent::Store> store;
  std::unique_ptr<journal::Journal> log;
  std::map<std::uint64_t, std::unique_ptr<extent::FileMap>> files;
  std::function<void(std::size_t index, SimulatedDisk&)> on_open;

 private:
  std::vector<std::unique_ptr<SimulatedDisk>> open_disks() {
    std::vector<std::unique_ptr<SimulatedDisk>> out;
    for (std::size_t i = 0; i < media.size(); ++i) {
      out.push_back(std::make_unique<SimulatedDisk>(executor, "/disk/" + std::to_string(i),
                                                    media[i], executor.random(), options_.latency));
      if (on_open) on_open(i, *out.back());
    }
    return out;
  }

  static Task<Result<std::size_t>> count_whole(SimStore* self,
                                               std::vector<journal::TailRecord> tail) {
    extent::Claims claims;
    for (std::size_t i = 0; i < tail.size(); ++i) {
      ByteReader reader(tail[i].payload);
      while (!reader.at_end()) {
        const auto type = reader.get<std::uint8_t>();
        CO_TRY(claims.take(i, tail[i].lsn, type, reader.get_sized<std::uint32_t>()));
      }
    }
    const std::optional<std::size_t> missing =
        co_await self->store->first_missing(std::move(claims));
    co_return missing.value_or(tail.size());
  }
  Result<void> apply(Lsn lsn, std::span<const std::byte> payload) {
    ByteReader reader(payload);
    while (!reader.at_end()) {
      const auto type = extent::ChangeType{reader.get<std::uint8_t>()};
      const auto body = reader.get_sized<std::uint32_t>();
      extent::Freed freed;
      switch (type) {
        case extent::ChangeType::kExtentPut: {
          const extent::ExtentPut put = TRY(extent::decode_extent_put(body));
          file(put.inode.raw).put(put.first, put.pieces, put.crcs, Generation{lsn.raw}, freed);
          TRY(store->note_live(put.pieces));
          TRY(store->note_dead(freed.pieces));
          break;
        }
        case extent::ChangeType::kExtentShare: {
          const extent::ExtentPut put = TRY(extent::decode_extent_put(body));
          file(put.inode.raw).put(put.first, put.pieces, put.crcs, Generation{lsn.raw}, freed);
          TRY(store->note_shared(put.pieces));
          TRY(store->note_dead(freed.pieces));
          break;
        }
        case extent::ChangeType::kExtentClear: {
          const extent::ExtentClear clear = TRY(extent::decode_extent_clear(body));
          file(clear.inode.raw).clear(clear.first, clear.count, freed);
          TRY(store->note_dead(freed.pieces));
          break;
        }
        case extent::ChangeType::kExtentReserve: {
          const extent::ExtentReserve reserve = TRY(extent::decode_extent_reserve(body));
          file(reserve.inode.raw).reserve(reserve.first, reserve.count, Generation{lsn.raw});
          break;
        }
        case extent::ChangeType::kChunkPut:
          TRY(store->replay(TRY(extent::decode_chunk_put(body))));
          break;
        case extent::ChangeType::kChunkRemove:
          TRY(store->replay(TRY(extent::decode_chunk_remove(body))));
          break;
        default: return Code::kFormatInvalid;
      }
    }
    return {};
  }

  SimStoreOptions options_;
};

}  // namespace dynamicfs::test
