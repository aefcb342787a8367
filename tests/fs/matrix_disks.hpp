// Space of a pool that rests, counted twice.
#pragma once

#include <map>
#include <optional>
#include <string>

#include "tests/fs/sim_pool.hpp"

namespace dynamicfs::test {

// By disk: slots of chunks and of runs, as the chunks and the manifest have them.
inline std::map<DiskId, std::uint64_t> slots_of_chunks(SimPool& pool) {
  std::map<DiskId, std::uint64_t> slots;
  for (const extent::ChunkPut& chunk : pool.fs().store().chunks())
    for (const auto& place : chunk.places) ++slots[place.disk];
  return slots;
}
inline std::map<DiskId, std::uint64_t> slots_of_runs(SimPool& pool) {
  std::map<DiskId, std::uint64_t> slots;
  for (const journal::RunRef& run : pool.fs().pool().superblock().manifest.runs)
    for (const journal::RunCopy& copy : run.copies) slots[copy.disk] += copy.slots.size();
  return slots;
}

// Empty if exactly what chunks and runs have is in use.
inline std::string wrong_slots(SimPool& pool) {
  std::string out;
  auto chunks = slots_of_chunks(pool);
  auto runs = slots_of_runs(pool);
  for (const auto& [disk, bytes] :
       pool.fs().store().space(pool.fs().pool().policy()).used_by_disk) {
    if (bytes != (chunks[disk] + runs[disk]) * kSlotBytes) {
      out += fmt::format(" disk {} has {} slots in use, {} of chunks and {} of runs;", disk,
                         bytes / kSlotBytes, chunks[disk], runs[disk]);
    }
    chunks.erase(disk);
    runs.erase(disk);
  }
  for (const auto& [disk, slots] : chunks)
    out += fmt::format(" {} slots of disk {}, which is not here;", slots, disk);
  for (const auto& [disk, slots] : runs)
    out += fmt::format(" {} run slots of disk {}, which is not here;", slots, disk);
  return out;
}

// What statfs answers of an empty pool must be what it answers of one that was made with the same disks now. Nothing is
// said where that need not be so: the runs of the two lie on disks of different size.
inline std::optional<std::string> unlike_a_new_pool(SimPool& pool) {
  SimPoolOptions options;
  options.disk_bytes.clear();
  const journal::Superblock superblock = pool.fs().pool().superblock();
  for (const journal::DiskRecord& disk : superblock.disks)
    options.disk_bytes.push_back(disk.size_bytes);
  const bool equal = std::ranges::all_of(
      options.disk_bytes, [&](std::uint64_t bytes) { return bytes == options.disk_bytes[0]; });
  if (!equal || superblock.tolerance() != superblock.policy.tolerance()) return std::nullopt;
  options.policy = superblock.policy;
  SimPool fresh(1, options);
  fresh.format();
  if (!fresh.mount().has_value() || !fresh.run(fresh.fs().checkpoint()).has_value())
    return "a new pool cannot be mounted";
  const auto slots = [](SimPool& of) {
    std::uint64_t sum = 0;
    for (const auto& [disk, count] : slots_of_runs(of)) sum += count;
    return sum;
  };
  const fs::StatFs is = pool.fs().statfs();
  const fs::StatFs expected = fresh.fs().statfs();
  if (slots(pool) != slots(fresh))
    return fmt::format("{} slots of runs, {} in a new pool", slots(pool), slots(fresh));
  if (is.total_bytes != expected.total_bytes || is.free_bytes != expected.free_bytes ||
      is.available_bytes != expected.available_bytes || is.files != expected.files) {
    return fmt::format(
        "{} bytes free ({} available) of {}, {} files; of a new pool {} ({}) of {}, {}",
        is.free_bytes, is.available_bytes, is.total_bytes, is.files, expected.free_bytes,
        expected.available_bytes, expected.total_bytes, expected.files);
  }
  return std::nullopt;
}

}  // namespace dynamicfs::test
