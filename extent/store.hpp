// The data of a pool: chunks on slots of disks, where blocks are allocated, written on every copy,
// read back verified, repaired and freed.
//
// Write   Space from a write point (an open chunk), one device write per copy, never over data that
//         a mapping names. Nobody sees the blocks until the caller publishes them in a FileMap.
// Read    Optimistic: register, copy the mappings of one instant without a lock, read the best
//         copy, verify every block's CRC-32C; see read().
// Free    INV-3: a freed block is *pending* until the record that freed it is covered
//         (Journal::covered) and no read that could aim at it is outstanding. A slot of an empty
//         chunk obeys the same rule behind its ChunkRemove record.
// Degraded  Chunks with a place on a disk that is away take no new blocks. With fewer healthy disks
//         than the policy asks for, new chunks have as many places as there are disks.
//
// Threads  Every method may be called from any thread.
// Locks    The allocator's mutex and the chunk table's are leaves; chunk records are appended to
// the
//         journal under the allocator's (an append takes no lock).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/buffer.hpp"
#include "base/executor.hpp"
#include "base/metrics.hpp"
#include "base/result.hpp"
#include "extent/epoch.hpp"
#include "extent/extent_format.hpp"
#include "extent/extent_lock.hpp"
#include "extent/extent_map.hpp"
#include "extent/placement.hpp"
#include "extent/store_metrics.hpp"
#include "journal/change_gate.hpp"
#include "journal/era.hpp"
#include "journal/journal.hpp"
#include "journal/pool.hpp"
#include "journal/run.hpp"
#include "journal/scrub_counts.hpp"

namespace dynamicfs::extent {

// In bytes; truthful for statfs. `usable` counts what the policy can hold over the present disks.
struct SpaceReport {
  std::uint64_t usable_bytes = 0;
  std::uint64_t free_bytes = 0;  // of usable; pending space counts as free, promises do not
  std::uint64_t pending_bytes = 0;
  std::uint64_t promised_bytes = 0;
  std::uint64_t reserve_bytes = 0;    // kept back so that deleting and metadata always work
  std::uint64_t degraded_chunks = 0;  // with fewer readable places than their layout asks for
  std::vector<std::pair<DiskId, std::uint64_t>> used_by_disk;  // bytes of slots in use
};

enum class ScrubOf : std::uint8_t { kAll, kMissed };

struct WriteHint {
  InodeId inode;
  FileBlock first;  // consecutive small writes of one file are placed together
  journal::Policy policy;
  scheduler::IoClass io_class = scheduler::IoClass::kWrite;
  // How many of the blocks replace promised (reserved) or mapped ones, so may use the reserve.
  std::uint64_t replaced_blocks = 0;
  // What is there already is put elsewhere: not into chunks that are being emptied, and kNoSpace at once
  // if there is no other room. note_moved() follows publish() or discard().
  bool moving = false;
  bool in_one_piece = false;  // or kNoSpace
  bool rows_only = false;     // of a parity group, or kNoSpace
  // Where the file lies, if its policy keeps it whole: Store::home(). What is `moving` goes nowhere else.
  std::optional<DiskId> home;
  bool promised = false;  // then: all of the blocks are reserved ones
};

struct Written {
  std::vector<Piece> pieces;        // in the order of the data
  std::vector<std::uint32_t> crcs;  // one per block
  bool striped = false;  // some of it under parity: the record must be RecordOrder::kBehindData
  // Not all of it is at WriteHint::home, in chunks of whole files: the last such part is here.
  std::optional<DiskId> elsewhere;
  std::uint32_t losses =
      0;  // Pool::losses() before it was begun: if there are more it may lie on a disk that has gone
  EpochTracker::Pin pin;  // until it is published or discarded: see writes_ended()
};

// What blocks [first, first + count) of it are, counted from its beginning.
Written part_of(const Written& written, std::size_t first, std::size_t count);

// What some records of the journal say of data, when it takes the data to believe them.
struct Claims {
  struct Claim {
    std::size_t record = 0;  // the caller's number of it, ascending
    Generation generation;
    ExtentPut put;
  };
  std::vector<Claim> claims;
  std::vector<ChunkPut> chunks;  // that the same records make

  // Takes one change of record `record` if it says anything of the kind. kFormatInvalid.
  Result<void> take(std::size_t record, Lsn lsn, std::uint8_t type,
                    std::span<const std::byte> body);
};

class Store final : public journal::SlotSource {
 public:
  // Recovery comes first: load and replay chunks and mappings, then start(). `eras` outlives the
  // store.
  Store(Executor& executor, journal::Pool& pool, journal::ChangeGate& gate, journal::Eras& eras);
  ~Store() override;

  // Recovery: one thread, before start(). First what the runs have, then the records behind them.

  // See Allocator.
  void tolerate_conflicts();
  bool knows(ChunkId id) const;
  // A chunk, or a column of a group, as a run has it under this id; ascending. kFormatInvalid (detail:
  // the chunk): a slot of it does not exist or is another's, or it contradicts its group.
  Result<void> load(ChunkId id, const ChunkState& state);
  // Ids of chunks below this one are not given out.
  void load_next_chunk(std::uint32_t id);
  Result<void> replay(const ChunkPut& change);
  // kFormatInvalid (detail: the chunk) if it is unknown or has live blocks.
  Result<void> replay(const ChunkRemove& change);
  // Data that a replayed record maps, respectively replaces or clears. kFormatInvalid (detail: the
  // chunk): unknown chunk, block out of range, live twice, respectively dead twice.
  Result<void> note_live(std::span<const Piece> pieces);
  Result<void> note_dead(std::span<const Piece> pieces);
  // Data that is mapped once more. kFormatInvalid (detail: the chunk): it was not mapped.
  Result<void> note_shared(std::span<const Piece> pieces);
  // Repair: what mappings name of a chunk that there is, respectively of a column of a group.
  void recount(ChunkId id, const BlockBitmap& live, const SharedBlocks& shared);
  // The first record whose data is not there: no copy is right, and one that could be read is wrong.
  // In a pool that can be written every copy of what the records before it claim is right afterwards
  // (not flushed) on disks that are here, have room, and were not away when it was written. Reads all that is claimed, 8 MiB at a time.
  Task<std::optional<std::size_t>> first_missing(Claims claims);
  // The copies of a run of the manifest keep their slots.
  void keep_run(std::span<const journal::RunCopy> copies);
  void note_reserved(std::uint64_t blocks);
  // Something that space is promised to gets this policy.
  void widen_promises(journal::Policy policy);
  // Everything that is not live is free. The journal is used from now on.
  void start(journal::Journal& journal);

  // Data.

  // Writes whole blocks (at most 257: 1 MiB, unaligned) to new space on every copy and computes
  // their checksums. On success at least one copy, and every copy on a disk that is healthy now, is
  // complete (not flushed). A disk that fails is reported to the pool. Errors: kNoSpace (after
  // pending space was drained), kReadOnly, kDiskWrite. `data` is aligned to kBlockBytes and stays
  // valid and unchanged until completion.
  Task<Result<Written>> write(WriteHint hint, std::span<const std::byte> data);
  // Gives back blocks that were written but will not be published.
  void discard(const Written& written);
  // Mappings name these blocks from now on. Called inside the ChangeScope that appends their record.
  void publish(const Written& written);
  // One more mapping names each of these blocks, which mappings name that cannot go meanwhile (their
  // extent locks are held). False, and nothing has changed: a block has as many references as can be
  // counted. Called inside the ChangeScope that appends the record of the new mapping.
  [[nodiscard]] bool share(std::span<const Piece> pieces);
  // How many of the blocks of these mappings would be free without them; whether others name some.
  std::uint64_t single_blocks(const MappingSet& set) const;
  bool is_shared(const MappingSet& set) const;
  // These mappings were replaced or cleared by the record `lsn`; called inside its ChangeScope.
  // Blocks that other mappings name stay. Promises among them (reserved blocks) are given back at once: do not unpromise() them again.
  void free(const Freed& freed, Lsn lsn);

  // The disk on which a file is to be kept whole: `known`, where it is, unless nothing new can be put there (then where what
  // lies there goes, if it is leaving), else one for so many blocks (0: not known yet), weighted by free space. Nothing:
  // there is none.
  std::optional<DiskId> home(std::optional<DiskId> known, std::uint64_t blocks);
  // So many blocks of whole files find room there.
  std::uint64_t room_at_home(DiskId disk);
  // Of a chunk of one copy. Nothing: it is gone.
  std::optional<DiskId> disk_of(ChunkId chunk) const;
  bool is_leaving(DiskId disk) const;

  // Promises space to fallocate. kNoSpace if it is not there, after draining.
  Task<Result<void>> promise(std::uint64_t blocks, journal::Policy policy);
  void unpromise(std::uint64_t blocks);

  // Reads blocks [first, first + out.size()/4096) of a file as one point in time; holes and
  // reserved extents are zeros. Errors: kCorrupt (detail: block) when no good copy is left,
  // kDiskGone when the disks that have it are away. Afterwards `out` may be other memory, of the
  // same size: a disk that keeps the read waiting is left behind with the old one when another copy
  // is quicker (hedges.hpp).
  //
  // Method: the mappings are copied as of one instant (FileMap::try_snapshot; after three tries
  // that met a change, under the extent locks). From then on their blocks hold what they held at
  // that instant: nothing is overwritten in place and, being registered, the read keeps them from
  // being reused. So what arrives with a good checksum is that instant, whatever has changed
  // meanwhile, and mappings are compared again only when no copy is good, to tell damage from a
  // bug.
  Task<Result<void>> read(const FileMap& map, InodeId inode, FileBlock first, Buffer& out,
                          scheduler::IoClass io_class);

  // Reads every copy of what is mapped in blocks [first, first + count) of a file, which lie in one
  // window (1 MiB), in the background class; verifies each, and rewrites bad ones from a good one
  // unless the pool is read-only. Copies on disks that are gone are skipped. Registered as a read
  // is, so the blocks are those of the mapping until all is done, and what has changed meanwhile is
  // no damage. Under erasure coding the parity of their rows is verified, too. Blocks without a good copy are told as those of a read are (on_unrecoverable), and are
  // no error here. kMissed: only what some disk that is here may lack, because it was away when it was
  // written. Memory: the range, once per copy.
  Task<Result<journal::ScrubCounts>> scrub(const FileMap& map, InodeId inode, FileBlock first,
                                           std::uint64_t count, ScrubOf of = ScrubOf::kAll);

  // Parity that is wrong in rows of which scrub() had not all the data, so that it could not tell what is: there is some.
  // Then all maps are shown to note_doubtful(), a window or so at a time, for the checksums of those rows, and
  // scrub_doubtful() reads each row once more: its parity is written anew, unless the pool is read-only, if all blocks in
  // it that mappings name are right by then. Forgets the rows.
  bool has_doubtful() const;
  void note_doubtful(const FileMap& map, FileBlock first, std::uint64_t count);
  Task<journal::ScrubCounts> scrub_doubtful();

  // Chunks worth emptying, ascending, and nothing new is put there while there is room elsewhere
  // (Allocator::drain_sparse). The caller moves what mappings have there, then says stop_draining().
  std::vector<ChunkId> drain_sparse(Drain why);
  // What they still hold.
  std::uint64_t draining_blocks() const;
  void stop_draining();
  void note_moved(const Written& written);
  // How many live blocks are in no parity group.
  std::uint64_t copied_blocks() const;
  bool has_groups() const;  // there are parity groups
  // How a chunk was asked to be protected: copies of it, or as a column of a parity group. Nothing: it is gone.
  std::optional<journal::Policy> layout(ChunkId chunk) const;
  // How many copies a chunk has, on disks that are here or not; of a column as many as its parity is worth.
  // Only for one that a mapping or a write names.
  std::size_t copies(ChunkId chunk) const;
  // What was written in one copy is durable. kDiskGone: a disk has failed, and the pool knows.
  Task<Result<void>> flush(const Written& written);
  // Data that cannot be read, because too many disks have gone since the mount, and that was not durable when they
  // went.
  bool lost_before_durable(const Mapping& mapping) const;

  // Chunks that lack places, or have some on disks that are leaving the pool, a group by its first column, and can be
  // read; how many places those are, in bytes; all with a place on this disk; whether there are any.
  std::vector<ChunkId> misplaced_chunks() const;
  std::uint64_t misplaced_bytes() const;
  std::vector<ChunkId> chunks_on(DiskId disk) const;
  bool has_chunks(DiskId disk) const;
  // Gives a chunk, or group, the places it should have, and another for the one on disk `off`, on the disks that are
  // least full; what is there is copied in the background class (move_chunk.cpp). False: there is nothing to
  // do. Otherwise its record is appended. Errors, each with everything as it was: kNoSpace; kBusy: somebody
  // else is at it, or a write to it does not end; kDiskRead: of a row too little can be read; kDiskGone: or is here; kReadOnly.
  // Memory: 1 MiB per place.
  Task<Result<bool>> move_chunk(ChunkId chunk, std::optional<DiskId> off = {},
                                bool only_to_emptier = false);
  // Nothing is put on this disk, which is leaving, until it is said to stay. True: no slot of it is in use, by a
  // chunk or a run, nor will be, and nobody reads there.
  bool close_if_unused(DiskId disk);
  // Once writes_ended() says true of a mark, everything that was being written when it was taken is published or
  // discarded. A disk that is here then is part of whatever is written from then on, so a walk through the maps sees all that it lacks.
  std::uint64_t writes_mark();
  bool writes_ended(std::uint64_t mark);
  RoomWithout room_without(DiskId disk) const;

  // Called when a block of a file turns out unreadable, no lock held.
  void on_unrecoverable(std::function<void(InodeId, FileBlock)> listener);

  ExtentLocks& locks();
  // For the maps of this pool, which are gone before the store is.
  MapContext& map_context();

  // Housekeeping.

  // Releases pending space that has become safe and removes empty chunks (appending their records).
  // Called after journal progress and periodically; cheap when there is nothing to do.
  Task<void> reclaim();
  SpaceReport space(journal::Policy policy) const;
  // Of files: only on disks that are away. Looks at every chunk if one is degraded.
  std::uint64_t unavailable_bytes() const;
  const StoreMetrics& metrics() const;

  // Checkpoint.

  // All chunks, ascending.
  std::vector<ChunkPut> chunks() const;
  // Every chunk whose places or live blocks the durable runs do not have as they are now, ascending.
  // Called inside ChangeGate::exclusively, and exact as of then; costs what has changed. One that no
  // run has may be among the removed.
  std::vector<ChunkChange> chunk_changes();
  // No chunk has this id or a larger one yet.
  std::uint32_t next_chunk() const;
  // The live blocks of all chunks, ascending, and how many those are.
  std::vector<std::pair<ChunkId, BlockBitmap>> live() const;
  std::uint64_t live_blocks() const;
  // Those of them that more than one mapping names, with how many, by chunk, ascending; how many those
  // are; and how many more blocks it would take if each mapping had its own.
  std::vector<std::pair<ChunkId, SharedBlocks>> shared() const;
  std::uint64_t shared_blocks() const;
  std::uint64_t saved_blocks() const;
  // What the maps of space take in memory: Allocator::map_bytes().
  std::uint64_t space_map_bytes() const;
  // The run being written names the chunks as of `lsn`: slots of chunks removed since must not be
  // taken, least of all by that run, before its manifest is durable or it has been given up.
  // Called inside ChangeGate::exclusively.
  void hold_chunk_slots(Lsn lsn);
  void release_chunk_slots();
  std::optional<SlotId> take_run_slot(DiskId disk) override;
  void drop_run_slots(DiskId disk, std::span<const SlotId> slots) override;
  // A durable manifest names these copies, written to slots taken with take_run_slot(). Several runs
  // may be written at once.
  void adopt_run(std::span<const journal::RunCopy> copies);
  // No superblock of a disk that is here names them any more, durably, and nobody reads them: their
  // slots are free. (A disk that is away and names them has its own copies, which nobody writes to.)
  void retire_run(std::span<const journal::RunCopy> copies);
  // What can be free by now is; reclaim() without the removal of empty chunks, which takes room in the
  // log.
  void release_pending();
  // A write to this disk found no room: for some seconds nothing new is put there.
  void note_full(DiskId disk);
  // Nothing is left alone, for that or for being suspect, until that is found anew.
  void try_full_disks_again();
  // Those of which that was said within the last minute.
  std::vector<DiskId> full_disks() const;
  // Every block in use has a copy on another disk that is here and lacks nothing.
  bool has_elsewhere(DiskId disk) const;
  // These do not answer in time: nothing new is put there while others have room. Replaces what was
  // said before.
  void note_suspects(std::vector<DiskId> disks);
  // Disks for a run's copies: healthy, with room as far as is known, most free slots first, `copies`
  // of them or as many as exist.
  std::vector<DiskId> run_disks(std::size_t copies) const;
  // There is hardly room on the disk to write all its runs anew.
  bool is_crowded(DiskId disk) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace dynamicfs::extent
