// Which blocks are free, and who gets them.
//
// Write points  For every policy in use there are as many lanes as healthy disks, each with an open
//               chunk for large and one for small writes. Large writes go to the lanes in turn, so
//               that a sequential file lies on all disks, and stay in one piece; small writes
//               choose their lane by file and window and are placed next to each other. What a
//               large lane leaves at the end of its chunk is used by small ones.
// Full          When no chunk can be opened any more, holes of partly live chunks are filled, and
// in
//               the end a large write is cut into what there is: "no space" is the exact truth.
// Parity groups Under ec:K+M a write of at least kStripeBlocks for each column takes rows of a group
//               (parity_group.hpp), if one can be had; others go to chunks of M + 1 copies.
// Whole files   A policy that keeps files whole has a layout for each disk, with one lane: what is written there comes
//               from chunks of that disk, which many files share. When it has no room, and the caller says so, any
//               other disk has to do.
// Compaction    When slots run short, the sparsest chunks are given up: drain_sparse() names them, and
//               whoever moves what they hold elsewhere (fs/compaction.hpp) makes them empty.
// Reserve       On every disk some slots are kept for metadata runs; of the rest some blocks are
// kept
//               for writes that replace what is there (they give back as much, only later).
// Live          A block is live from the record that maps it to the record that takes its last mapping
//               away. A run has the live blocks of every chunk as of its LSN, and how many mappings
//               name those that several do, so a mount knows them without looking at the maps: chunks
//               that have changed since the durable runs are dirty.
// Threads       Every method may be called from any thread.
// Locks         One mutex, a leaf. Where a chunk is opened or removed its record is appended under
//               it, so the caller is inside a ChangeScope.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <utility>
#include <vector>

#include "base/mutex.hpp"
#include "base/result.hpp"
#include "extent/chunk.hpp"
#include "extent/extent_map.hpp"
#include "extent/parity_group.hpp"
#include "extent/pending_space.hpp"
#include "extent/placement.hpp"
#include "extent/pool_view.hpp"
#include "extent/shared_blocks.hpp"
#include "extent/slot_map.hpp"
#include "extent/store_metrics.hpp"
#include "journal/era.hpp"

namespace dynamicfs::extent {

// Writes of at least this many blocks (64 KiB) are large.
inline constexpr std::uint32_t kLargeBlocks = 16;

// Where the records of chunks go.
class ChunkLog {
 public:
  virtual ~ChunkLog() = default;
  virtual void append(const ChunkPut& change) = 0;
  virtual Lsn append(const ChunkRemove& change) = 0;
  // A chunk that is there has other places. Not durable before the data that is there by now.
  virtual Lsn append_moved(const ChunkPut& change) = 0;
};

class Allocator {
 public:
  struct Request {
    InodeId inode;
    FileBlock first;
    journal::Policy policy;
    std::optional<DiskId> home;  // if the policy keeps files whole: the disk of this one
    bool anywhere = false;       // ... or another: it is full, or cannot be written to
    bool promised = false;       // ... and there is a promise for all of it
    std::uint32_t blocks = 0;
    // May use the reserve: as many blocks will be given back.
    std::uint32_t replaced_blocks = 0;
    bool moving = false;        // not into chunks that are being emptied; note_moved() follows
    bool in_one_piece = false;  // or not at all
    bool rows_only = false;     // of a parity group, or not at all
    bool urgent =
        false;  // nothing is about to be given back: what replaces blocks may take what is promised
  };
  enum class Outcome : std::uint8_t {
    kDone,
    kNeedsChunk,  // call again with a log
    kNoSpace,
  };

  Allocator(ChunkTable& chunks, ReadRegistry& reads, AllocatorMetrics& metrics,
            const journal::Eras& eras);
  ~Allocator();

  // Recovery: first what the runs have, then the records behind them in order.

  // Before anything else, where some of that may be missing or outdated, and nothing is to be allocated: a
  // slot may belong to several chunks, and a chunk that is removed stays. Who follows an outdated mapping
  // finds other data than its checksum says.
  void tolerate_conflicts();
  // kFormatInvalid (detail: the chunk): a slot that does not exist or belongs to another chunk.
  // `id`: of the chunk, or of the column of a group, whose state it is.
  Result<void> load(ChunkId id, const ChunkState& state);
  bool knows(ChunkId id) const;
  // Ids below this one are not given out.
  void load_next_chunk(std::uint32_t id);
  // The manifest's runs keep their slots.
  void keep_run(std::span<const journal::RunCopy> copies);
  Result<void> replay(const ChunkPut& change);
  // kFormatInvalid (detail: the chunk) if it is unknown or has live blocks.
  Result<void> replay(const ChunkRemove& change);
  // Mappings that a record makes, respectively replaces or clears. kFormatInvalid (detail: the
  // chunk) if a block is live already, respectively is not, or does not exist; what stands before it
  // is noted.
  Result<void> note_live(std::span<const Piece> pieces);
  Result<void> note_dead(std::span<const Piece> pieces);
  // Mappings of blocks that have one already. kFormatInvalid (detail: the chunk) if they have none.
  Result<void> note_shared(std::span<const Piece> pieces);
  // Repair: this is what mappings name of the chunk, whatever was said before.
  void recount(ChunkId id, const BlockBitmap& live, const SharedBlocks& shared);
  // Everything that is not live is free from now on.
  void start();

  // Membership.

  // Disks that are `left_alone` take nothing new for now: their host file system has no space, or they
  // do not answer in time.
  // `closed`: nothing is put there, even for want of any other. `slow`: those left alone for the latter only.
  void set_disks(std::shared_ptr<const PoolView> view, std::vector<DiskId> left_alone,
                 std::vector<DiskId> closed = {}, std::vector<DiskId> slow = {});
  // No slot of it is taken, nor about to be free.
  bool is_unused(DiskId disk) const;

  // Space.

  // Appends pieces to `out`, neighbours merged. Without a log no chunk is opened.
  Outcome allocate(const Request& request, ChunkLog* log, std::vector<Piece>& out);
  // Blocks that were never published: reusable at once.
  void discard(std::span<const Piece> pieces);
  // A mapping names these allocated blocks from now on. Inside the ChangeScope of its record.
  void publish(std::span<const Piece> pieces);
  // One more mapping names each of these live blocks. False, and nothing has changed, if one of them
  // can have no more references. Inside the ChangeScope of its record.
  [[nodiscard]] bool share(std::span<const Piece> pieces);
  // Mappings of published blocks that the record `lsn` has taken away: those that no other names are
  // free. Inside its ChangeScope.
  void free(std::span<const Piece> pieces, Lsn lsn);
  // Whether one of these blocks has several references; how many have one.
  bool is_shared(std::span<const Piece> pieces) const;
  std::uint64_t single_blocks(std::span<const Piece> pieces) const;

  // Whole files.

  // `known` if a whole file can be written to it; that where what is on it goes, if it is leaving; else the disk for a
  // file of so many blocks (0: not known yet), weighted by free space. Nothing: there is none.
  std::optional<DiskId> home(std::optional<DiskId> known, std::uint64_t blocks);
  // So much finds room in chunks of whole files on that disk.
  std::uint64_t room_at_home(DiskId disk);
  // Some of it will be free soon.
  bool has_pending_at_home(DiskId disk);
  // Of its first place. Nothing: it is gone.
  std::optional<DiskId> disk_of(ChunkId chunk) const;
  bool promise(std::uint64_t blocks, journal::Policy policy);

  // Compaction.

  // Sealed chunks that share no block and are at most half full, whose contents find room in other chunks and whose slots
  // would make up at least 1/64 of all there are, ascending; nothing is put into them until
  // stop_draining(), as long as there is room elsewhere. Unless `why` is another: none while more than a tenth of the
  // slots is free or about to be.
  std::vector<ChunkId> drain_sparse(Drain why);
  // What they still hold.
  std::uint64_t draining_blocks() const;
  void stop_draining();
  // What a moving request was given is published or discarded: as much is pending or free now.
  void note_moved(std::uint64_t blocks);
  // At recovery, or 0 when a policy changes; `width`: of the widest policy that any of it may have been promised under.
  void note_promised(std::uint64_t blocks, std::size_t width);
  void unpromise(std::uint64_t blocks);

  // Reuse.

  // Releases what is safe by now; true if there was anything.
  bool advance(Lsn covered);
  // There is, or will be in a moment because it is being moved.
  bool has_pending() const;
  std::size_t empty_chunks() const;
  // Removes up to `count` sealed chunks without live blocks.
  void remove_empty(std::size_t count, ChunkLog& log);

  // Runs.

  // Inside ChangeGate::exclusively: every chunk that is not clean, ascending. Exact as of that
  // instant. Costs what is dirty.
  std::vector<ChunkChange> chunk_changes();
  std::uint32_t next_chunk() const;
  std::optional<SlotId> take_run_slot(DiskId disk);
  // Slots taken for a run that will not be.
  void drop_run_slots(DiskId disk, std::span<const SlotId> slots);
  // Until called again with the largest LSN, slots of chunks removed behind `lsn` are not reused.
  void hold_chunk_slots(Lsn lsn);
  // A durable manifest names these copies, whose slots were taken, from now on.
  void adopt_run(std::span<const journal::RunCopy> copies);
  // None names them any more, and nobody reads them through a run: free when no other read is left.
  void retire_run(std::span<const journal::RunCopy> copies);
  // See Store.
  bool has_elsewhere(DiskId disk) const;
  std::vector<DiskId> run_disks(std::size_t copies) const;
  bool is_crowded(DiskId disk) const;

  // Moving: a chunk, or a group by its first column, gets other places while it is in use. The caller copies.

  struct Move {
    ChunkId chunk;
    journal::Policy layout;
    std::vector<Place> from;
    std::vector<Place> to;  // in the same order; behind the end of `from` those that it lacked
  };
  enum class MoveOutcome : std::uint8_t {
    kReady,
    kNothing,  // it is where it should be, or gone
    kNoRoom,
    kLater,  // somebody else is at it
  };
  // All that lack places, or have some on disks that are to be emptied, ascending; how many places those
  // are. Not those that cannot be read now.
  std::vector<ChunkId> misplaced() const;
  std::uint64_t misplaced_slots() const;
  // All with a place on that disk; whether there are any, in no time.
  std::vector<ChunkId> chunks_on(DiskId disk) const;
  bool has_chunks(DiskId disk) const;
  // Takes slots for what `chunk` should have elsewhere, and has on disk `off`, on the disks that are least
  // full; for the latter, with `only_to_emptier`, only where less is used than on `off`. Nothing is put into it from now
  // on, until finish_move() or cancel_move(): one follows if this was kReady.
  MoveOutcome begin_move(ChunkId chunk, std::optional<DiskId> off, bool only_to_emptier,
                         Move* move);
  // Nothing is being written to it any more; it stays so.
  bool is_settled(const Move& move) const;
  // Then: a bit for each row that mappings need, which does not become more.
  BlockWords rows_to_copy(const Move& move) const;
  // Those rows are on all new places. Inside the ChangeScope of the record.
  void finish_move(const Move& move, ChunkLog& log);
  void cancel_move(const Move& move);

  // Never two places of a chunk on one disk.
  RoomWithout room_without(DiskId disk) const;

  // Groups.

  struct RowFound {
    const ParityGroup* group = nullptr;  // null: it is gone or removed
    std::uint32_t live = 0;  // a bit for each column whose block in the row a mapping names
    bool moving = false;     // what is written to it may not arrive where it is going
  };
  // The row of the group whose first column that is. The group stays as long as a read is registered that was before
  // the call, and has pinned the disks of all columns.
  RowFound find_row(ChunkId first, std::uint32_t row) const;
  std::optional<journal::Policy> layout(ChunkId chunk) const;  // see Store
  std::size_t copies(ChunkId chunk) const;
  // Where a chunk was that cannot be read any more: its places, or those of its group, of which `tolerance` may be gone.
  struct Lost {
    std::vector<DiskId> gone;
    std::size_t tolerance = 0;
  };
  std::optional<Lost> lost(ChunkId chunk) const;
  std::uint64_t copied_blocks() const;  // likewise
  bool has_groups() const;

  // Reports.

  struct Space {
    std::uint64_t usable_blocks = 0;
    std::uint64_t free_blocks = 0;
    std::uint64_t pending_blocks = 0;
    std::uint64_t promised_blocks = 0;
    std::uint64_t reserve_blocks = 0;
    std::uint64_t degraded_chunks = 0;
    std::vector<std::pair<DiskId, std::uint64_t>> used_slots;
  };
  Space space(journal::Policy policy) const;
  // Live blocks that no disk which is here has. Looks at every chunk if one is degraded.
  std::uint64_t unavailable_blocks() const;
  std::vector<ChunkPut> chunks() const;
  // Of all chunks that are not removed, ascending.
  std::vector<std::pair<ChunkId, BlockBitmap>> live() const;
  std::uint64_t live_blocks() const;
  // Of all chunks that have any, ascending.
  std::vector<std::pair<ChunkId, SharedBlocks>> shared() const;
  // How many blocks have several references, and how many references there are beyond the first of each.
  std::uint64_t shared_blocks() const { return shared_blocks_.load(std::memory_order_relaxed); }
  std::uint64_t saved_blocks() const { return saved_blocks_.load(std::memory_order_relaxed); }
  // What is in memory of all space, free or not: chunks with their bitmaps and places, the table of
  // them, and which slots are taken. Not what waits to be freed or written to a run.
  std::uint64_t map_bytes() const;

 private:
  // Nearly always the one piece that was asked about.
  using DeadPieces = InlineVector<Piece, 2>;
  struct Lane {
    Chunk* large = nullptr;
    Chunk* small = nullptr;
  };
  struct Layout;
  struct Groups;
  struct DiskSpace {
    bool writable = false;  // healthy, and its host has space
    // The same for whole files, which have no choice: also if it does not answer in time; but not if it is leaving.
    bool keeps_writing = false;
    std::optional<DiskId> successor;  // where whole files go when it is leaving
    bool closed = false;
    std::set<SlotId> run_slots;      // of the manifest's runs
    std::set<SlotId> new_run_slots;  // of those that are being written
    std::uint32_t pending_slots = 0;
  };

  // `disk`: if it is of whole files.
  Layout& layout_of(journal::Policy policy, DiskId disk = {}) DFS_REQUIRES(mutex_);
  Layout& layout_of(const Chunk& chunk) DFS_REQUIRES(mutex_);
  bool is_on(const Layout& layout, DiskId disk) const DFS_REQUIRES(mutex_);
  std::size_t lanes_of(const Layout& layout) const DFS_REQUIRES(mutex_);
  std::size_t width_of(journal::Policy policy) const DFS_REQUIRES(mutex_);
  std::uint32_t reserved_slots(DiskId disk) const DFS_REQUIRES(mutex_);
  // For any layout, or for this one.
  std::vector<Candidate> candidates(bool with_pending, bool with_reserve,
                                    const Layout* layout = nullptr) const DFS_REQUIRES(mutex_);
  std::vector<Candidate> whole_disks(const Layout& layout) const DFS_REQUIRES(mutex_);
  std::uint64_t available_blocks(Layout& layout) DFS_REQUIRES(mutex_);
  std::uint64_t overwrite_reserve(const Layout& layout) const DFS_REQUIRES(mutex_);
  std::optional<DiskId> successor(DiskId leaving) DFS_REQUIRES(mutex_);
  std::size_t promise_width() const DFS_REQUIRES(mutex_);
  std::uint64_t kept_blocks(const Layout& layout) const DFS_REQUIRES(mutex_);
  std::uint64_t spare_chunks(const Layout& layout) const DFS_REQUIRES(mutex_);
  std::uint64_t fresh_room(Layout& layout) DFS_REQUIRES(mutex_);
  void drain_sparse(Layout& layout, journal::Policy policy, Drain why) DFS_REQUIRES(mutex_);
  bool can_open(Layout& layout, bool may_take_promises) DFS_REQUIRES(mutex_);
  bool holds_promises() const DFS_REQUIRES(mutex_);
  std::uint64_t promised_elsewhere() const DFS_REQUIRES(mutex_);
  bool fits(Layout& layout, std::uint64_t fresh_blocks, std::uint64_t blocks,
            bool may_take_promises = false) DFS_REQUIRES(mutex_);
  Chunk& open(Layout& layout, ChunkLog& log) DFS_REQUIRES(mutex_);
  void seal(Layout& layout, Chunk*& chunk, bool has_long_tail) DFS_REQUIRES(mutex_);
  void note_if_empty(Chunk& chunk) DFS_REQUIRES(mutex_);
  void take(Layout& layout, Chunk& chunk, std::uint32_t block, std::uint32_t count,
            std::vector<Piece>& out) DFS_REQUIRES(mutex_);
  bool take_run(Layout& layout, Chunk& chunk, std::uint32_t count, std::vector<Piece>& out)
      DFS_REQUIRES(mutex_);
  std::uint32_t take_some(Layout& layout, Chunk& chunk, std::uint32_t count,
                          std::vector<Piece>& out) DFS_REQUIRES(mutex_);
  bool fill_holes(Layout& layout, Lane& lane, const Request& request, std::vector<Piece>& out)
      DFS_REQUIRES(mutex_);
  std::uint32_t take_from(Layout& layout, Chunk& chunk, std::uint32_t count,
                          std::vector<Piece>& out) DFS_REQUIRES(mutex_);
  void give(Chunk& chunk, std::uint32_t block, std::uint32_t count) DFS_REQUIRES(mutex_);
  bool claim(const Place& place) DFS_REQUIRES(mutex_);
  Result<Chunk*> add(const ChunkPut& change) DFS_REQUIRES(mutex_);
  bool set_live(const Piece& piece) DFS_REQUIRES(mutex_);
  bool clear_live(const Piece& piece, DeadPieces* dead) DFS_REQUIRES(mutex_);
  bool can_share(const Piece& piece) const DFS_REQUIRES(mutex_);
  void add_reference(const Piece& piece) DFS_REQUIRES(mutex_);
  void clear_references(Chunk& chunk, const Piece& piece, DeadPieces& dead) DFS_REQUIRES(mutex_);
  void make_pending(const Piece& piece, Lsn lsn) DFS_REQUIRES(mutex_);
  Groups& groups_of(journal::Policy policy) DFS_REQUIRES(mutex_);
  const Groups* find_groups(journal::Policy policy) const DFS_REQUIRES(mutex_);
  Outcome allocate_copies(Layout& layout, const Request& request, ChunkLog* log,
                          std::vector<Piece>& out) DFS_REQUIRES(mutex_);
  Outcome allocate_whole(const Request& request, ChunkLog* log, std::vector<Piece>& out)
      DFS_REQUIRES(mutex_);
  Outcome allocate_single(const Request& request, ChunkLog* log, std::vector<Piece>& out)
      DFS_REQUIRES(mutex_);
  Outcome allocate_parts(std::span<Layout* const> layouts, const Request& request, ChunkLog* log,
                         std::vector<Piece>& out) DFS_REQUIRES(mutex_);
  Outcome allocate_rows(const Request& request, ChunkLog* log, std::vector<Piece>& out)
      DFS_REQUIRES(mutex_);
  Outcome allocate_any_rows(const Request& request, std::vector<Piece>& out) DFS_REQUIRES(mutex_);
  bool take_rows(Groups& groups, ParityGroup& group, std::uint32_t rows, std::uint32_t blocks,
                 std::vector<Piece>& out) DFS_REQUIRES(mutex_);
  void fill_rows(Groups& groups, ParityGroup& group, std::uint32_t row, std::uint32_t rows,
                 std::uint32_t blocks, std::vector<Piece>& out) DFS_REQUIRES(mutex_);
  bool can_open(Groups& groups, const Request& request) DFS_REQUIRES(mutex_);
  ParityGroup& open(Groups& groups, ChunkLog& log) DFS_REQUIRES(mutex_);
  void seal(Groups& groups, ParityGroup*& group) DFS_REQUIRES(mutex_);
  std::uint64_t drain_groups(Groups& groups, std::uint64_t slots_least, std::uint64_t slots_wanted,
                             bool also_lost) DFS_REQUIRES(mutex_);
  ParityGroup& add_group(const ChunkPut& change) DFS_REQUIRES(mutex_);
  void note_rows_given(Chunk& column, std::uint32_t first, std::uint32_t count)
      DFS_REQUIRES(mutex_);
  void note_if_empty(ParityGroup& group) DFS_REQUIRES(mutex_);
  void judge(ParityGroup& group) DFS_REQUIRES(mutex_);
  void remove(ParityGroup& group, ChunkLog& log) DFS_REQUIRES(mutex_);
  void erase(ParityGroup& group) DFS_REQUIRES(mutex_);
  std::size_t leaving(std::span<const Place> places) const DFS_REQUIRES(mutex_);
  bool is_leaving(DiskId disk) const DFS_REQUIRES(mutex_);
  std::optional<DiskId> emptiest(std::span<const Place> places, std::optional<DiskId> than) const
      DFS_REQUIRES(mutex_);
  const MovedChunk* put_places(ChunkId id, std::span<const Place> places) DFS_REQUIRES(mutex_);
  bool take_place(Move& move, std::optional<Place> instead_of, std::optional<DiskId> disk)
      DFS_REQUIRES(mutex_);
  void close(Chunk& chunk) DFS_REQUIRES(mutex_);
  void end_move(ChunkId id) DFS_REQUIRES(mutex_);
  void forget(const MovedChunk* moved) DFS_REQUIRES(mutex_);
  void touch(Chunk& chunk) DFS_REQUIRES(mutex_);
  void judge(Chunk& chunk) DFS_REQUIRES(mutex_);
  void slots_changed() DFS_REQUIRES(mutex_);

  // Own synchronisation.
  ChunkTable& chunks_;
  ReadRegistry& reads_;
  AllocatorMetrics& metrics_;
  const journal::Eras& eras_;
  std::atomic<std::uint64_t> shared_blocks_{0};  // changed under the mutex
  std::atomic<std::uint64_t> saved_blocks_{0};   // likewise

  mutable Mutex mutex_;
  bool started_ DFS_GUARDED_BY(mutex_) = false;
  bool salvage_ DFS_GUARDED_BY(mutex_) = false;
  std::shared_ptr<const PoolView> view_ DFS_GUARDED_BY(mutex_);
  SlotMap slots_ DFS_GUARDED_BY(mutex_);
  std::vector<DiskSpace> disks_ DFS_GUARDED_BY(mutex_);  // by id
  Placement homes_ DFS_GUARDED_BY(mutex_);
  std::vector<std::unique_ptr<Layout>> layouts_ DFS_GUARDED_BY(mutex_);
  std::vector<std::unique_ptr<Groups>> groups_ DFS_GUARDED_BY(mutex_);
  std::map<std::uint32_t, std::unique_ptr<ParityGroup>> parity_groups_
      DFS_GUARDED_BY(mutex_);  // by first id
  // Chunks that are not clean, each with every era of its changes, and some that are.
  std::vector<std::pair<ChunkId, std::uint64_t>> dirty_ DFS_GUARDED_BY(mutex_);
  // By chunk, those that share blocks alone: a pool without clones pays nothing for it.
  std::map<std::uint32_t, SharedBlocks> shared_ DFS_GUARDED_BY(mutex_);
  std::vector<ChunkId> empty_ DFS_GUARDED_BY(mutex_);
  std::vector<ChunkId> draining_ DFS_GUARDED_BY(mutex_);  // ascending
  std::uint64_t moving_blocks_ DFS_GUARDED_BY(mutex_) = 0;
  PendingSpace pending_ DFS_GUARDED_BY(mutex_);
  std::map<const MovedChunk*, std::unique_ptr<MovedChunk>> moved_ DFS_GUARDED_BY(mutex_);
  Lsn hold_ DFS_GUARDED_BY(mutex_){~std::uint64_t{0}};
  Lsn last_freed_ DFS_GUARDED_BY(mutex_);  // the youngest record that free() was told of
  std::uint64_t pending_blocks_ DFS_GUARDED_BY(mutex_) = 0;
  std::uint64_t pending_slots_ DFS_GUARDED_BY(mutex_) = 0;
  std::uint64_t promised_blocks_ DFS_GUARDED_BY(mutex_) = 0;
  std::size_t promise_width_ DFS_GUARDED_BY(mutex_) =
      1;  // of the widest policy that something was promised under
  std::uint64_t live_blocks_ DFS_GUARDED_BY(mutex_) = 0;
  std::uint64_t striped_blocks_ DFS_GUARDED_BY(mutex_) = 0;  // of them: in groups
  std::uint64_t degraded_chunks_ DFS_GUARDED_BY(mutex_) = 0;
  std::uint64_t misplaced_slots_ DFS_GUARDED_BY(mutex_) = 0;
  std::uint64_t slots_version_ DFS_GUARDED_BY(mutex_) = 1;
  std::uint32_t next_chunk_ DFS_GUARDED_BY(mutex_) = 1;
};

}  // namespace dynamicfs::extent
