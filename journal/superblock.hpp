// Who belongs to the pool, which epoch it is in, and where its metadata is: the first thing read
// and the last thing switched.
//
// Every disk of the pool carries two copies of the superblock, written one after the other, so at
// least one is whole after any crash, and damage to one costs nothing; a pool of two disks has
// four.
//
// Invariants  `sequence` grows with every write. The epoch history only grows at its end.
//             A new epoch is announced on every disk before it is confirmed on any, and confirmed
//             on every disk before a record is made in it. So an epoch that is only announced has
//             no records, and who has confirmed one was together with all who know it. A disk that
//             does not know another's last confirmed epoch is stale. Two disks that do not know
//             each other's were mounted apart. A batch of the log belongs to exactly the epoch that
//             the history names for its sequence, so what an abandoned session left in the log is
//             never taken for a record.
// Format      man/format.md, "Superblock".
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/bytes.hpp"
#include "base/ids.hpp"
#include "base/result.hpp"
#include "base/uuid.hpp"

namespace dynamicfs::journal {

// 6: files whole on one disk, spare disks. 5: parity groups. 4: blocks may be shared, inodes have flags. 3: a checkpoint is several runs, with an index and a filter each. Nobody has
// pools of an older format, so they are refused.
inline constexpr std::uint32_t kFormatVersion = 6;
// The oldest that is read; a mount for writing makes of a pool one of kFormatVersion.
inline constexpr std::uint32_t kFormatVersionOldest = 3;

// A volume: superblock A at 0, B at kSuperblockBytes; the journal region at kJournalOffset; slots
// from `first_slot_offset` (a multiple of kSlotBytes) to the end.
inline constexpr std::uint64_t kSuperblockBytes = 64 * kKiB;
inline constexpr std::uint64_t kJournalOffset = 1 * kMiB;
// The smallest volume: superblocks, the smallest journal and eight slots.
inline constexpr std::uint64_t kJournalBytesMin = 7 * kMiB;
inline constexpr std::uint64_t kJournalBytesMax = 255 * kMiB;
inline constexpr std::uint64_t kVolumeBytesMin = 40 * kMiB;
inline constexpr std::size_t kDisksMax = 64;
// As many disks may have been in a pool, one after the other.
inline constexpr std::size_t kDiskIdsMax = 4096;
// Data and parity of ec:K+M together.
inline constexpr std::size_t kColumnsMax = 16;
// Longer paths are not remembered: 64 of them must fit into a superblock.
inline constexpr std::size_t kPathBytesMax = 512;
inline std::string stored_path(std::string path) {
  return path.size() <= kPathBytesMax ? path : "";
}
// Copies of the log: one more than any two disks can lose, and each costs every fsync a write.
inline constexpr std::size_t kMembersMax = 3;
// The oldest epochs are forgotten beyond this (half of a superblock), but none that the log needs.
// A disk that was away for longer looks as if it had been mounted apart, which is the safe mistake.
inline constexpr std::size_t kEpochsMax = 1024;

// Size of the journal region of a volume: about 1/64 of it, within the bounds above, such that the
// first slot is aligned.
constexpr std::uint64_t journal_bytes_for(std::uint64_t volume_bytes) {
  const std::uint64_t wanted = align_down(volume_bytes / 64, kSlotBytes);
  const std::uint64_t bounded = wanted < 8 * kMiB     ? 8 * kMiB
                                : wanted > 256 * kMiB ? 256 * kMiB
                                                      : wanted;
  return bounded - kJournalOffset;
}

// How data is protected. `single` is replica(1).
struct Policy {
  enum class Kind : std::uint8_t { kReplica = 1, kErasure = 2 };
  Kind kind = Kind::kReplica;
  std::uint8_t copies_or_data = 1;  // r, or k
  std::uint8_t parity = 0;          // m
  bool whole_files = false;         // all data of a file on one disk; of single alone
  bool operator==(const Policy&) const = default;
  // Disks that may be lost without losing data.
  unsigned tolerance() const { return kind == Kind::kReplica ? copies_or_data - 1u : parity; }
  unsigned width() const { return copies_or_data + (kind == Kind::kErasure ? parity : 0u); }
  // In copies that survive as many lost disks: as small writes are kept under erasure coding.
  Policy of_copies() const {
    return {.copies_or_data = static_cast<std::uint8_t>(tolerance() + 1),
            .whole_files = whole_files};
  }
  // The same, with files on all disks.
  Policy spread() const {
    return {.kind = kind, .copies_or_data = copies_or_data, .parity = parity};
  }
  // As the format has it.
  std::uint8_t kind_on_disk() const {
    return whole_files ? kWholeFilesOnDisk : static_cast<std::uint8_t>(kind);
  }
  // Copies and parity are as they should be for it, if this is what it returns; nothing: unknown.
  static std::optional<Policy> from_disk(std::uint8_t kind, std::uint8_t copies_or_data,
                                         std::uint8_t parity);
  static constexpr std::uint8_t kWholeFilesOnDisk = 3;
  std::string text() const;  // "single", "single,placement=file", "replica:2", "ec:4+2"
  static std::optional<Policy> parse(std::string_view text);
  // In one word, for an atomic; never 0.
  std::uint32_t packed() const {
    return static_cast<std::uint32_t>(kind) | std::uint32_t{copies_or_data} << 8 |
           std::uint32_t{parity} << 16 | std::uint32_t{whole_files} << 24;
  }
  static Policy unpacked(std::uint32_t word) {
    return {.kind = static_cast<Kind>(word & 0xff),
            .copies_or_data = static_cast<std::uint8_t>(word >> 8 & 0xff),
            .parity = static_cast<std::uint8_t>(word >> 16 & 0xff),
            .whole_files = (word >> 24 & 1) != 0};
  }
};

// What the pool remembers of a disk. Whether it is here now is Pool's to say.
enum class DiskState : std::uint8_t {
  kActive = 1,  // took part in the current epoch
  kAway = 2,    // missing when the current epoch began, or failed since
};

struct DiskRecord {
  DiskId id;
  Uuid uuid;
  std::string path;  // where it was last seen
  std::uint64_t size_bytes = 0;
  std::uint64_t journal_bytes = 0;
  std::uint64_t first_slot_offset = 0;
  std::uint32_t slots = 0;
  DiskState state = DiskState::kActive;
  // Extents published after this may lack their copy here, because the disk was away; 0: none.
  Lsn stale_since;
  // Everything on it is going elsewhere; then it is removed.
  bool leaving = false;
  bool lost = false;  // ... because it has been away for long, and only as long as it is
  // With `leaving`: nothing is put there until another disk is lost, and it stays in the pool.
  bool spare = false;
  bool operator==(const DiskRecord&) const = default;
};

// One period of unchanged membership. Every mount after a crash begins one, too.
struct EpochRecord {
  Epoch number;
  std::uint64_t tag = 0;  // random, so that epochs of equal number made apart differ
  // Batches from this one on, until the next epoch's first, belong to this epoch.
  BatchSequence first_sequence{1};
  // The last record that was durable when the epoch began.
  Lsn after;
  bool operator==(const EpochRecord&) const = default;
};

// A place in the log: batch `sequence` is, or will be, at `offset` of the journal region, and its
// header names `previous_crc`.
struct LogPosition {
  BatchSequence sequence{1};
  std::uint64_t offset = 0;
  std::uint32_t previous_crc = 0;
  bool operator==(const LogPosition&) const = default;
};

struct RunCopy {
  DiskId disk;
  std::vector<SlotId> slots;
  bool operator==(const RunCopy&) const = default;
};

inline constexpr std::size_t kRunBlockBytes = 32 * kKiB;
// A look-up that no filter cuts short reads a block of each.
inline constexpr std::size_t kRunsMax = 24;

// A run of the checkpoint: where its copies lie and what is where in it.
struct RunRef {
  std::uint64_t id = 0;            // never given twice in a pool, see Manifest::next_run
  std::uint64_t bytes = 0;         // whole run blocks: entries, then index, then filter
  std::uint64_t entry_blocks = 0;  // the first ones
  std::uint64_t index_blocks = 0;  // behind them; the rest is the filter
  std::vector<RunCopy> copies;
  std::uint64_t blocks() const { return bytes / kRunBlockBytes; }
  bool operator==(const RunRef&) const = default;
};

// The current checkpoint: all metadata as of `lsn`, and where the log goes on from there.
struct Manifest {
  std::vector<RunRef> runs;    // newest first; none yet: the log alone is everything
  std::uint64_t next_run = 1;  // larger than the id of every run there has been
  Lsn lsn;                     // records up to this one are in the runs
  LogPosition log_start;
  bool operator==(const Manifest&) const = default;
};

// Where the scrub of everything is, also across mounts.
struct ScrubMark {
  InodeId next;                    // it goes on with this one; 0: none is under way
  std::uint64_t ended_unix_s = 0;  // when the last one had seen everything; 0: never
  bool operator==(const ScrubMark&) const = default;
};

struct Superblock {
  std::uint32_t reader_min = kFormatVersion;
  std::uint32_t writer_min = kFormatVersion;
  Uuid pool;
  std::string label;
  std::uint64_t sequence = 0;
  DiskId this_disk;  // the disk this copy lies on
  Policy policy;
  std::vector<EpochRecord> epochs;  // oldest first; the last is the current one
  bool announced = false;           // the last epoch is not confirmed yet
  std::vector<DiskId> members;      // hold the log in the current epoch
  std::vector<DiskRecord> disks;
  DiskId next_disk;  // larger than the id of every disk there has been: none is given twice
  // Size of the log on every member: what the smallest disk had room for when the pool was made.
  // A disk whose journal region is smaller cannot be a member.
  std::uint64_t log_bytes = 0;
  // No record from now on has this LSN or an earlier one: raised at every mount after a crash by
  // more than could have been lost, so that no LSN is ever given twice.
  Lsn lsn_floor;
  Manifest manifest;
  bool rebalancing = false;  // what lies on fuller disks is going to emptier ones
  bool reencoding = false;   // some data may lie otherwise than its policy asks
  // So many disks may be lost at least before the pool cannot be mounted: what the strongest policy that a
  // file or directory has been given asks of the metadata.
  std::uint8_t tolerance_min = 0;
  // A file or directory has been given a policy that keeps files whole: what is on other disks than a lost one is
  // to be reached without it.
  bool whole_files = false;
  ScrubMark scrub;
  bool clean = false;  // unmounted in order: the log behind the manifest is empty
  std::uint64_t created_unix_s = 0;

  const DiskRecord* find(DiskId id) const;
  DiskRecord* find(DiskId id);
  // So many disks may be lost with the metadata still there.
  unsigned tolerance() const {
    const unsigned whole = whole_files || policy.whole_files ? kMembersMax - 1 : 0;
    return std::max(data_tolerance(), whole);
  }
  // ... what the strongest policy asks of data.
  unsigned data_tolerance() const { return std::max<unsigned>(policy.tolerance(), tolerance_min); }
  const EpochRecord& epoch() const { return epochs.back(); }
  const EpochRecord& confirmed_epoch() const {
    return announced && epochs.size() > 1 ? epochs[epochs.size() - 2] : epochs.back();
  }
  // The epoch that a batch of this sequence belongs to; nullptr if it is forgotten.
  const EpochRecord* epoch_of(BatchSequence batch) const;
  bool operator==(const Superblock&) const = default;
};

// Whole blocks, at most kSuperblockBytes; too large a pool, or too many runs, is kFormatInvalid.
Result<Bytes> encode(const Superblock& superblock);
// kFormatMagic: not ours. kChecksum: ours, damaged. kFormatVersion: reader_min is not what this
// program reads (detail: that version). kFormatInvalid: impossible contents.
Result<Superblock> decode(std::span<const std::byte> bytes);

}  // namespace dynamicfs::journal
