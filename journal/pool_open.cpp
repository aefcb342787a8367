// Making a pool, and opening one: who is current, stale, missing, or was mounted apart.

#include <algorithm>
#include <cstring>
#include <variant>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/buffer.hpp"
#include "base/log.hpp"
#include "journal/membership.hpp"
#include "journal/pool_impl.hpp"
#include "journal/superblock_io.hpp"

namespace dynamicfs::journal {
namespace {

using scheduler::Disk;
using scheduler::IoClass;
using scheduler::IoGroup;

constexpr std::uint64_t kZeroBytes = 1 * kMiB;
// Per disk at a time: enough to keep it busy.
constexpr std::uint64_t kZeroWritesMax = 4;

// One disk handed to open(), and what it said.
struct Candidate {
  std::unique_ptr<Disk> disk;
  std::optional<FoundSuperblock> found;
  Error why{};  // if not found
};

Error refuse(Pool::Problem* problem, Error why, std::string text) {
  if (problem != nullptr) problem->text = std::move(text);
  return why;
}

std::string name_of(const DiskRecord& record) {
  return record.path.empty() ? fmt::format("disk {} ({})", record.id, record.uuid.text())
                             : fmt::format("disk {} ({}, last seen at {})", record.id,
                                           record.uuid.text(), record.path);
}

std::string names_of(const std::vector<DiskRecord>& records) {
  std::vector<std::string> names;
  for (const DiskRecord& record : records) names.push_back(name_of(record));
  return fmt::format("{}", fmt::join(names, ", "));
}

// Refusals that need no comparison: the user named something that cannot be part of any pool we
// open.
std::optional<Error> refuse_alone(const std::vector<Candidate>& candidates,
                                  Pool::Problem* problem) {
  for (const Candidate& candidate : candidates) {
    if (candidate.found) continue;
    const std::string& path = candidate.disk->path();
    if (candidate.why.code == Code::kFormatMagic) {
      return refuse(problem, candidate.why,
                    fmt::format("{} is not a dynamicfs disk. Nothing was changed.", path));
    }
    if (candidate.why.code == Code::kFormatVersion) {
      const bool newer = candidate.why.detail > kFormatVersion;
      return refuse(
          problem, candidate.why,
          fmt::format("{} was written by {} dynamicfs (format {}; this program reads "
                      "{} to {}). Use that version{}.",
                      path, newer ? "a newer" : "an older", candidate.why.detail,
                      kFormatVersionOldest, kFormatVersion, newer ? " or a later one" : ""));
    }
  }
  return std::nullopt;
}

std::optional<Error> refuse_strangers(const std::vector<Candidate>& candidates,
                                      Pool::Problem* problem) {
  for (std::size_t i = 0; i < candidates.size(); ++i) {
    for (std::size_t k = 0; k < i; ++k) {
      const Superblock& a = candidates[k].found->superblock;
      const Superblock& b = candidates[i].found->superblock;
      const std::string& path_a = candidates[k].disk->path();
      const std::string& path_b = candidates[i].disk->path();
      if (a.pool != b.pool) {
        return refuse(
            problem, error(Code::kNotInPool),
            fmt::format("{} and {} belong to different pools ({} and {}). Mount one pool at "
                        "a time.",
                        path_a, path_b, a.pool.text(), b.pool.text()));
      }
      if (a.this_disk == b.this_disk) {
        return refuse(
            problem, error(Code::kNotInPool, a.this_disk.raw),
            fmt::format("{} and {} are two copies of the same disk. Name only one of them.", path_a,
                        path_b));
      }
    }
  }
  return std::nullopt;
}

Error refuse_split(const Candidate& a, const Candidate& b, Pool::Problem* problem) {
  return refuse(
      problem, error(Code::kSplitBrain),
      fmt::format(
          "{0} and {1} were each mounted and changed without the other, so they no "
          "longer agree (or one is of a copy of the pool). Nothing was changed now. To keep one "
          "side, disconnect the other disk and mount this one: 'dynamicfs mount {0} "
          "MOUNTPOINT' without {1}, or the reverse. The other disk cannot come back into "
          "that pool: copy what only it has before you use it for something else.",
          a.disk->path(), b.disk->path()));
}

// The damaged superblocks and unreadable disks among what was named, for the message.
std::string damage_text(const std::vector<Candidate>& damaged) {
  std::string text;
  for (const Candidate& candidate : damaged) {
    text += fmt::format(
        " {} cannot be used: {}.", candidate.disk->path(),
        candidate.why.code == Code::kDiskRange
            ? "it is smaller than when it was made part of the pool"
        : candidate.why.code == Code::kChecksum || candidate.why.code == Code::kFormatInvalid
            ? "both of its superblocks are damaged"
            : describe(candidate.why));
  }
  return text;
}

Task<Result<FoundSuperblock>> find_on(Disk* disk) {
  auto found = co_await find_superblock(*disk);
  co_return found;
}

// kPoolExists: it has a superblock.
Task<Result<void>> check_nobodys(Disk* disk) {
  const Result<FoundSuperblock> found = co_await find_on(disk);
  if (found.has_value()) co_return Code::kPoolExists;
  const Error why = found.error();
  if (why.code == Code::kFormatMagic) co_return Result<void>{};
  // A damaged superblock or one of another version is still somebody's pool.
  const bool ours = why.code == Code::kChecksum || why.code == Code::kFormatVersion ||
                    why.code == Code::kFormatInvalid;
  co_return ours ? error(Code::kPoolExists) : why;
}

Task<Result<void>> check_for_format(std::vector<Disk*> disks, FormatOptions options) {
  if (disks.empty() || disks.size() < options.policy.width()) {
    co_return error(Code::kTooFewDisks, options.policy.width());
  }
  if (disks.size() > kDisksMax) co_return error(Code::kInvalid, kDisksMax);
  for (std::size_t i = 0; i < disks.size(); ++i) {
    if (disks[i]->size_bytes() < kVolumeBytesMin) co_return error(Code::kInvalid, i);
  }
  for (std::size_t i = 0; i < disks.size(); ++i) {
    const Result<void> nobodys = co_await check_nobodys(disks[i]);
    if (!nobodys.has_value() && nobodys.error().code == Code::kPoolExists)
      co_return error(Code::kPoolExists, i);
    CO_TRY(nobodys);
  }
  co_return Result<void>{};
}

// Allocated and written once, so that a durable write into the log never has to change the metadata
// of the file system below (an unwritten extent would: it cannot be written with FUA alone).
Task<Result<void>> zero_journals(std::vector<Disk*> disks, std::vector<DiskRecord> records) {
  Buffer zeros{kZeroBytes};
  std::memset(zeros.data(), 0, zeros.size());
  std::uint64_t largest = 0;
  for (const DiskRecord& record : records) largest = std::max(largest, record.journal_bytes);
  IoGroup group;
  for (std::uint64_t from = 0; from < largest; from += kZeroWritesMax * kZeroBytes) {
    group.clear();
    for (std::size_t i = 0; i < disks.size(); ++i) {
      const std::uint64_t end =
          std::min(from + kZeroWritesMax * kZeroBytes, records[i].journal_bytes);
      for (std::uint64_t at = from; at < end; at += kZeroBytes) {
        group.write(*disks[i], IoClass::kWrite, kJournalOffset + at,
                    zeros.span().first(std::min(kZeroBytes, end - at)));
      }
    }
    co_await group.run();
    CO_TRY(group.result());
  }
  group.clear();
  for (Disk* const disk : disks) group.flush(*disk, IoClass::kCritical);
  co_await group.run();
  co_return group.result();
}

Task<Result<void>> write_first_superblocks(std::vector<Disk*> disks, Superblock superblock) {
  IoGroup group;
  std::vector<Buffer> buffers;
  for (std::size_t i = 0; i < disks.size(); ++i) {
    superblock.this_disk = superblock.disks[i].id;
    CO_TRY_ASSIGN(const Bytes bytes, encode(superblock));
    Buffer& buffer = buffers.emplace_back(bytes.size());
    std::memcpy(buffer.data(), bytes.data(), bytes.size());
    for (const unsigned copy : {0u, 1u}) {
      group.write(*disks[i], IoClass::kCritical, superblock_offset(copy), buffer.span(), true);
    }
  }
  co_await group.run();
  co_return group.result();
}

Uuid random_uuid(Executor& executor) {
  const std::uint64_t high = executor.random();
  return Uuid::from_random(high, executor.random());
}

}  // namespace

DiskRecord new_record(Executor& executor, DiskId id, const Disk& disk) {
  DiskRecord record;
  record.id = id;
  record.uuid = random_uuid(executor);
  record.path = stored_path(disk.path());
  record.size_bytes = disk.size_bytes();
  record.journal_bytes = journal_bytes_for(record.size_bytes);
  record.first_slot_offset = kJournalOffset + record.journal_bytes;
  record.slots =
      static_cast<std::uint32_t>((record.size_bytes - record.first_slot_offset) / kSlotBytes);
  return record;
}

Task<Result<void>> check_new_disk(Disk* disk) {
  if (disk->size_bytes() < kVolumeBytesMin) co_return Code::kInvalid;
  co_return co_await check_nobodys(disk);
}

Task<Result<void>> zero_journal(Disk* disk, DiskRecord record) {
  // Named: the compiler does not take lists in an awaited call.
  const std::vector<Disk*> disks(1, disk);
  const std::vector<DiskRecord> records(1, record);
  co_return co_await zero_journals(disks, records);
}

Task<Result<void>> write_superblock(Disk* disk, Bytes bytes) {
  Buffer buffer{bytes.size()};
  std::memcpy(buffer.data(), bytes.data(), bytes.size());
  IoGroup group;
  for (const unsigned copy : {0u, 1u}) {
    group.write(*disk, IoClass::kCritical, superblock_offset(copy), buffer.span(), true);
  }
  co_await group.run();
  co_return group.result();
}

std::optional<std::size_t> place_in_history(const Superblock& superblock,
                                            const EpochRecord& epoch) {
  for (std::size_t i = superblock.epochs.size(); i-- > 0;) {
    const EpochRecord& known = superblock.epochs[i];
    if (known.number == epoch.number && known.tag == epoch.tag) return i;
  }
  return std::nullopt;
}

std::variant<std::size_t, SplitPair> newest_of(std::span<const Superblock* const> found) {
  std::size_t newest = 0;
  for (std::size_t i = 1; i < found.size(); ++i) {
    const bool knows = place_in_history(*found[i], found[newest]->confirmed_epoch()).has_value();
    const bool known = place_in_history(*found[newest], found[i]->confirmed_epoch()).has_value();
    if (!knows && !known) return SplitPair{newest, i};
    // If each knows the other's, they were together when it was announced.
    if (knows && (!known || found[i]->sequence > found[newest]->sequence)) newest = i;
  }
  // Knowing is transitive only among honest disks.
  for (std::size_t i = 0; i < found.size(); ++i) {
    if (!place_in_history(*found[newest], found[i]->confirmed_epoch())) return SplitPair{newest, i};
  }
  return newest;
}

std::optional<std::size_t> last_known_epoch(const Superblock& newest, const Superblock& other) {
  for (std::size_t i = newest.epochs.size(); i-- > 0;) {
    if (place_in_history(other, newest.epochs[i])) return i;
  }
  return std::nullopt;
}

Task<Result<Uuid>> Pool::format(Executor& executor, std::vector<Disk*> disks,
                                FormatOptions options) {
  CO_TRY(co_await check_for_format(disks, options));

  Superblock superblock;
  superblock.pool = random_uuid(executor);
  superblock.label = options.label;
  superblock.sequence = 1;
  superblock.policy = options.policy;
  superblock.clean = true;
  superblock.created_unix_s = static_cast<std::uint64_t>(
      std::chrono::duration_cast<std::chrono::seconds>(executor.wall_now()).count());
  EpochRecord& epoch = superblock.epochs.emplace_back();
  epoch.number = Epoch{1};
  epoch.tag = executor.random();
  for (std::size_t i = 0; i < disks.size(); ++i) {
    DiskRecord& record = superblock.disks.emplace_back();
    record = new_record(executor, DiskId{static_cast<std::uint16_t>(i)}, *disks[i]);
    superblock.log_bytes =
        i == 0 ? record.journal_bytes : std::min(superblock.log_bytes, record.journal_bytes);
    if (superblock.members.size() < kMembersMax) superblock.members.push_back(record.id);
  }

  superblock.next_disk = DiskId{static_cast<std::uint16_t>(disks.size())};

  CO_TRY(encode(superblock));  // a label too long is found out before anything is written
  CO_TRY(co_await zero_journals(disks, superblock.disks));
  CO_TRY(co_await write_first_superblocks(disks, superblock));
  co_return superblock.pool;
}

Task<Result<std::unique_ptr<Pool>>> Pool::open(Executor& executor, Opening opening,
                                               Problem* problem) {
  if (opening.disks.empty()) {
    co_return refuse(problem, error(Code::kDiskMissing), "No disk was named.");
  }
  std::vector<Task<Result<FoundSuperblock>>> reads;
  for (const auto& disk : opening.disks) reads.push_back(find_on(disk.get()));
  std::vector<Result<FoundSuperblock>> answers = co_await when_all(std::move(reads));
  // Some disks may be given up below, which joins their threads: not from one of them.
  co_await executor.leave_driver_thread();
  std::vector<Candidate> candidates;
  for (std::size_t i = 0; i < answers.size(); ++i) {
    Candidate& candidate = candidates.emplace_back();
    candidate.disk = std::move(opening.disks[i]);
    if (answers[i].has_value()) {
      candidate.found = std::move(answers[i]).value();
    } else {
      candidate.why = answers[i].error();
    }
  }
  if (const auto refusal = refuse_alone(candidates, problem)) co_return *refusal;

  // Damaged or unreadable disks count as missing: the pool may be able to do without them.
  std::vector<Candidate> damaged;
  for (Candidate& candidate : candidates) {
    if (!candidate.found) damaged.push_back(std::move(candidate));
  }
  std::erase_if(candidates, [](const Candidate& candidate) { return candidate.disk == nullptr; });
  if (candidates.empty()) {
    co_return refuse(problem, damaged.front().why, "No disk can be used." + damage_text(damaged));
  }
  if (const auto refusal = refuse_strangers(candidates, problem)) co_return *refusal;

  std::vector<const Superblock*> found;
  for (const Candidate& candidate : candidates) found.push_back(&candidate.found->superblock);
  const auto chosen = newest_of(found);
  if (const auto* const split = std::get_if<SplitPair>(&chosen)) {
    co_return refuse_split(candidates[split->first], candidates[split->second], problem);
  }
  Superblock superblock = *found[std::get<std::size_t>(chosen)];
  found.clear();

  const std::size_t confirmed = *place_in_history(superblock, superblock.confirmed_epoch());
  std::vector<std::unique_ptr<Seat>> seats;
  std::vector<DiskRecord> missing;
  for (DiskRecord& record : superblock.disks) {
    auto seat = std::make_unique<Seat>();
    seat->id = record.id;
    seat->first_slot_offset = record.first_slot_offset;
    seat->slots = record.slots;
    for (Candidate& candidate : candidates) {
      if (candidate.disk == nullptr || candidate.found->superblock.this_disk != record.id) continue;
      const DiskRecord* const own = candidate.found->superblock.find(record.id);
      if (own->uuid != record.uuid) continue;
      if (candidate.disk->size_bytes() <
          record.first_slot_offset + std::uint64_t{record.slots} * kSlotBytes) {
        candidate.why = error(Code::kDiskRange, candidate.disk->size_bytes());
        seat->reason = "smaller than when it was made part of the pool";
        damaged.push_back(std::move(candidate));
        continue;
      }
      const auto known = last_known_epoch(superblock, candidate.found->superblock);
      DFS_ASSERT(known.has_value());  // or it would have been mounted apart
      // Nothing is recorded in an epoch that is only announced, so one that has not heard of it lacks nothing.
      if (*known < confirmed) seat->old_epoch = *known;
      seat->next_copy = candidate.found->copy ^ 1;
      seat->disk = std::move(candidate.disk);
      record.path = stored_path(seat->disk->path());
    }
    if (seat->disk != nullptr) {
      const bool stale = seat->old_epoch.has_value() || record.stale_since.raw != 0;
      seat->health = stale ? DiskHealth::kStale : DiskHealth::kHealthy;
    } else {
      seat->health = DiskHealth::kMissing;
      missing.push_back(record);
    }
    seats.push_back(std::move(seat));
  }
  for (const Candidate& candidate : candidates) {
    if (candidate.disk == nullptr) continue;
    log_warning("{} was removed from this pool and is left alone", candidate.disk->path());
  }

  if (problem != nullptr) problem->missing = missing;
  const unsigned tolerance = superblock.tolerance();
  const Error cause =
      damaged.empty() ? error(Code::kDiskMissing, missing.size()) : damaged.front().why;
  // A spare has nothing that could be missing.
  const auto missed =
      std::ranges::count_if(missing, [](const DiskRecord& record) { return !record.spare; });
  if (static_cast<unsigned>(missed) > tolerance) {
    co_return refuse(problem, cause,
                     fmt::format("{} of {} disks {} missing, and {} {}: {}.{} Connect "
                                 "what is missing, or say where it is with -o disk=PATH.",
                                 missing.size(), superblock.disks.size(),
                                 missing.size() == 1 ? "is" : "are", superblock.policy.text(),
                                 tolerance == 0 ? std::string{"cannot do without any"}
                                                : fmt::format("can do without {}", tolerance),
                                 names_of(missing), damage_text(damaged)));
  }
  const bool member_here = std::ranges::any_of(seats, [&](const auto& seat) {
    return seat->disk != nullptr && seat->old_epoch.value_or(confirmed) >= confirmed &&
           std::ranges::find(superblock.members, seat->id) != superblock.members.end();
  });
  if (!member_here) {
    std::vector<DiskRecord> members;
    for (const DiskId id : superblock.members) members.push_back(*superblock.find(id));
    if (problem != nullptr) problem->missing = members;
    co_return refuse(
        problem, cause,
        fmt::format("No disk with the newest journal is here; these had it: {}.{} Connect "
                    "one of them, or say where it is with -o disk=PATH.",
                    names_of(members), damage_text(damaged)));
  }
  for (const Candidate& candidate : damaged) {
    log_warning("{} cannot be used ({}); going on without it", candidate.disk->path(),
                describe(candidate.why));
  }
  bool read_only = opening.read_only;
  if (superblock.writer_min > kFormatVersion) {
    log_warning("this pool was written by a newer dynamicfs (format {}): opened read-only",
                superblock.writer_min);
    read_only = true;
  }
  auto impl = std::make_unique<Impl>(executor, std::move(superblock), read_only);
  impl->take_seats(std::move(seats));
  co_return std::unique_ptr<Pool>{new Pool{std::move(impl)}};
}

}  // namespace dynamicfs::journal
