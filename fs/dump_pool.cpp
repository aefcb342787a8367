#include "fs/dump_pool.hpp"

#include <fmt/format.h>

#include <set>

#include "base/blocking.hpp"
#include "base/buffer.hpp"
#include "base/log.hpp"
#include "fs/change_text.hpp"
#include "fs/disk_search.hpp"
#include "fs/mount_options.hpp"
#include "journal/log_walk.hpp"
#include "journal/run.hpp"

namespace dynamicfs::fs {
namespace {

using Print = std::function<void(const std::string&)>;

std::string policy_and_state(const journal::Superblock& superblock) {
  return fmt::format("{}, {}", superblock.policy.text(),
                     superblock.clean ? "unmounted in order" : "not unmounted in order");
}

std::string position_text(const journal::LogPosition& position) {
  return fmt::format("batch {} at {:#x}", position.sequence, position.offset);
}

std::string superblock_text(const journal::Superblock& superblock) {
  std::string out = fmt::format(
      "    pool {}{}, write {}, format {} to read, {} to write\n    {}, made {} (unix time)\n",
      superblock.pool.text(),
      superblock.label.empty() ? "" : fmt::format(" ({})", superblock.label), superblock.sequence,
      superblock.reader_min, superblock.writer_min, policy_and_state(superblock),
      superblock.created_unix_s);
  for (const journal::EpochRecord& epoch : superblock.epochs) {
    out += fmt::format(
        "    epoch {} (tag {:016x}) from batch {}, after LSN {}{}\n", epoch.number, epoch.tag,
        epoch.first_sequence, epoch.after,
        superblock.announced && &epoch == &superblock.epochs.back() ? ", announced" : "");
  }
  for (const journal::DiskRecord& disk : superblock.disks) {
    const bool member = std::ranges::count(superblock.members, disk.id) != 0;
    out += fmt::format("    disk {} ({}) at {}: {}, {} slots from {:#x}, {}{}{}\n", disk.id,
                       disk.uuid.text(), disk.path.empty() ? "an unknown place" : disk.path,
                       size_text(disk.size_bytes), disk.slots, disk.first_slot_offset,
                       disk.state == journal::DiskState::kActive ? "active" : "away",
                       member ? ", keeps the journal" : "",
                       disk.stale_since.raw == 0
                           ? ""
                           : fmt::format(", may lack what came after LSN {}", disk.stale_since));
  }
  const journal::Manifest& manifest = superblock.manifest;
  out += fmt::format("    journal {} on each disk that keeps it, from {} on, LSNs above {}\n",
                     size_text(superblock.log_bytes), position_text(manifest.log_start),
                     superblock.lsn_floor);
  if (manifest.runs.empty()) return out + "    no run yet: the journal is everything\n";
  out += fmt::format("    runs up to LSN {}, newest first:\n", manifest.lsn);
  for (const journal::RunRef& run : manifest.runs) {
    out += fmt::format("      run {}, {}", run.id, size_text(run.bytes));
    for (const journal::RunCopy& copy : run.copies) {
      out += fmt::format("{} disk {} slots", &copy == run.copies.data() ? ":" : ";", copy.disk);
      for (const SlotId slot : copy.slots) out += fmt::format(" {}", slot);
    }
    out += "\n";
  }
  return out;
}

Task<Result<void>> read_copy(scheduler::Disk* disk, std::uint64_t offset,
                             std::span<std::byte> into) {
  co_return co_await scheduler::read(*disk, scheduler::IoClass::kRead, offset, into);
}

// Of this disk; `others`: where it remembers the disks of its pool to be.
bool dump_superblocks_of(Executor& executor, const std::string& path, const Print& print,
                         std::set<std::string>& others) {
  print(fmt::format("{}\n", path));
  const auto target = scheduler::inspect_volume(path);
  Result<std::unique_ptr<scheduler::Disk>> disk = error(Code::kDiskGone);
  if (!target.has_value()) {
    disk = target.error();
  } else if (target->exists && target->size_bytes != 0) {
    disk = scheduler::open_uring_disk(executor, *target,
                                      {.name = "dump",
                                       .workers = 1,
                                       .queue = {.depth = 4},
                                       .read_only = true,
                                       .lock_wait = Duration::zero()});
  }
  if (!disk.has_value()) {
    print(fmt::format("  {}\n", describe(disk.error())));
    return true;
  }
  bool damaged = false;
  for (const char copy : {'A', 'B'}) {
    const std::uint64_t offset = copy == 'A' ? 0 : journal::kSuperblockBytes;
    Buffer bytes{journal::kSuperblockBytes};
    Result<void> read = block_on(executor, read_copy(disk->get(), offset, bytes.span()));
    if (read.has_value()) {
      const Result<journal::Superblock> superblock = journal::decode(bytes.span());
      if (superblock.has_value()) {
        print(fmt::format("  superblock {}:\n{}", copy, superblock_text(*superblock)));
        for (const journal::DiskRecord& record : superblock->disks) others.insert(record.path);
        continue;
      }
      read = superblock.error();
    }
    damaged = true;
    print(fmt::format("  superblock {}: {}\n", copy, describe(read.error())));
  }
  return damaged;
}

// The disks named, readable as pools or not, then those that they remember.
bool dump_superblocks(Executor& executor, const DumpRequest& request, const Print& print) {
  bool damaged = false;
  std::set<std::string> seen;
  std::vector<std::string> todo{request.disk};
  todo.insert(todo.end(), request.others.begin(), request.others.end());
  for (std::size_t i = 0; i < todo.size(); ++i) {
    if (!seen.insert(todo[i]).second) continue;
    std::set<std::string> others;
    const std::string path = todo[i];
    const bool damaged_here = dump_superblocks_of(executor, path, print, others);
    damaged = damaged || damaged_here;
    for (const std::string& other : others) {
      if (!other.empty()) todo.push_back(other);
    }
  }
  return damaged;
}

std::string batch_text(const journal::BatchHeader& header, bool whole, bool torn) {
  std::string out = fmt::format("  batch {} at {:#x}, {} bytes, epoch {}: ", header.sequence,
                                header.offset, header.batch_bytes(), header.epoch);
  out += header.records == 0
             ? std::string{"no records"}
             : fmt::format("{} records, LSN {} to {}", header.records, header.first, header.last);
  out += fmt::format(", durable before it: {}", header.watermark);
  if (header.beside_flush) out += ", written beside the flush of its data";
  return out + (whole  ? "\n"
                : torn ? ", not whole: cut off by a crash, or damaged since\n"
                       : ", DAMAGED\n");
}

// Where the log ends on this member, and whether that is an end.
bool dump_end(const journal::LogEndFound& end, const Print& print) {
  if (end.later) {
    print(fmt::format("  batch {} should be at {:#x} and is DAMAGED: batch {} stands behind it\n",
                      end.next.sequence, end.next.offset, end.later->sequence));
    return true;
  }
  print(fmt::format("  end: {} would be next{}\n", position_text(end.next),
                    !end.other
                        ? ""
                        : fmt::format("; batch {} of epoch {} stands there, left from before",
                                      end.other->sequence, end.other->epoch)));
  return false;
}

bool dump_journal(Executor& executor, journal::Pool& pool, const Print& print) {
  // The records once, from the member that has most of them.
  std::optional<DiskId> longest;
  BatchSequence furthest{0};
  std::set<BatchSequence> whole_somewhere;
  const auto note = [&](const journal::BatchHeader& header, std::span<const std::byte>,
                        bool whole) {
    if (whole) whole_somewhere.insert(header.sequence);
  };
  for (const DiskId member : pool.members_found()) {
    if (pool.disk(member) == nullptr) continue;
    const auto end = block_on(executor, journal::walk_log(pool, member, note));
    if (!end || (longest && end->next.sequence <= furthest)) continue;
    longest = member;
    furthest = end->next.sequence;
  }
  bool damaged = false;
  for (const DiskId member : pool.members_found()) {
    scheduler::Disk* const disk = pool.disk(member);
    if (disk == nullptr) {
      print(fmt::format("disk {}: not here\n", member));
      continue;
    }
    const bool with_records = longest == member;
    print(fmt::format("disk {} ({}){}\n", member, disk->path(),
                      with_records ? "" : ", without the records"));
    const auto each = [&](const journal::BatchHeader& header, std::span<const std::byte> batch,
                          bool whole) {
      // The last one may be torn by the crash that ended the log.
      const bool torn = !whole && header.sequence.raw + 1 == furthest.raw &&
                        !whole_somewhere.contains(header.sequence);
      damaged = damaged || (!whole && !torn);
      print(batch_text(header, whole, torn));
      if (!whole || !with_records) return;
      const Result<void> read = journal::for_each_record(
          header, batch, [&](Lsn lsn, std::span<const std::byte> payload) -> Result<void> {
            print(fmt::format("    LSN {}\n{}", lsn, record_text(payload, "      ")));
            return {};
          });
      if (!read.has_value()) print(fmt::format("    {}\n", describe(read.error())));
    };
    const auto end = block_on(executor, journal::walk_log(pool, member, each));
    if (!end) {
      damaged = true;
      print(fmt::format("  {}\n", describe(end.error())));
      continue;
    }
    const bool damaged_here = dump_end(*end, print);
    damaged = damaged || damaged_here;
    if (end->next.sequence < furthest && !damaged_here) {
      damaged = true;
      print(fmt::format("  batch {}, which another disk has, is not whole here\n",
                        end->next.sequence));
    }
  }
  return damaged;
}

bool dump_runs(Executor& executor, journal::Pool& pool, const Print& print) {
  const journal::Manifest manifest = pool.superblock().manifest;
  if (manifest.runs.empty()) {
    print("There is no run yet: the journal is everything.\n");
    return false;
  }
  const auto each = [&](journal::RunEntryKind kind, std::span<const std::byte> key,
                        std::span<const std::byte> value) {
    print(run_entry_text(kind, key, value));
    return Result<void>{};
  };
  bool damaged = false;
  for (const journal::RunRef& run : manifest.runs) {
    print(fmt::format("Run {}, {}\n", run.id, size_text(run.bytes)));
    const auto read = block_on(executor, journal::read_run(pool, run, each));
    if (!read) {
      print(fmt::format("The rest cannot be read: {}.\n", describe(read.error())));
      damaged = true;
    } else if (read->blocks_bad != 0) {
      print(fmt::format("Damaged copies of blocks: {}. What is above comes from others.\n",
                        read->blocks_bad));
      damaged = true;
    }
  }
  return damaged;
}

}  // namespace

Outcome<ExitCode> dump_pool(const DumpRequest& request, const Print& print) {
  const std::unique_ptr<Executor> executor = make_thread_executor();
  auto found = find_disks(
      *executor, {.named = request.disk, .others = request.others, .queue = {}, .read_only = true});
  bool damaged = false;
  if (request.what == DumpWhat::kSuperblocks) {
    // What is in use or no disk at all is refused; a damaged one is what this is for.
    if (!found && found.error().code != ExitCode::kFailed) return found.error();
    if (found) found->disks.clear();
    damaged = dump_superblocks(*executor, request, print);
  } else {
    if (!found) return found.error();
    const auto pool = TRY(open_pool(*executor, std::move(found->disks), true));
    damaged = request.what == DumpWhat::kJournal ? dump_journal(*executor, *pool, print)
                                                 : dump_runs(*executor, *pool, print);
  }
  return damaged ? ExitCode::kAtRisk : ExitCode::kOk;
}

}  // namespace dynamicfs::fs
