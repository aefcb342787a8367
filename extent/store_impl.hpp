// The inside of Store, shared by recovery and reports (store.cpp), the write path (write_path.cpp),
// the read path (read_path.cpp, reconstruct.cpp), the scrub (scrub_path.cpp, parity_scrub.cpp) and reclaim (reclaim.cpp).
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "base/mutex.hpp"
#include "base/waiters.hpp"
#include "extent/allocator.hpp"
#include "extent/chunk.hpp"
#include "extent/hedges.hpp"
#include "extent/parity_group.hpp"
#include "extent/pool_view.hpp"
#include "extent/read_registry.hpp"
#include "extent/store.hpp"

namespace dynamicfs::extent {

struct Fetch;
struct ReadPlan;
class RightData;
// Checksums of blocks of a row, by column.
using RowSums = std::map<std::size_t, std::uint32_t>;

struct Store::Impl {
  Impl(Executor& executor_in, journal::Pool& pool_in, journal::ChangeGate& gate_in,
       journal::Eras& eras);

  // Fixed at construction; `journal` at start().
  Executor& executor;
  journal::Pool& pool;
  journal::ChangeGate& gate;
  journal::Journal* journal = nullptr;

  // Own synchronisation.
  std::atomic<std::uint64_t> reads_seen{0};  // of programs, at the last look of a move
  std::atomic<TimePoint> reads_until{TimePoint{}};
  StoreMetrics metrics;
  ExtentLocks locks;
  MapContext maps;
  ReadRegistry reads;
  ChunkTable chunks;
  Allocator allocator;
  Hedges hedges;
  AsyncMutex reclaiming;  // one reclaim at a time
  EpochTracker writers;   // see Store::writes_ended()

  // Order: before the allocator's mutex and the pool's.
  mutable Mutex view_mutex;
  std::shared_ptr<const PoolView> view DFS_GUARDED_BY(view_mutex);
  // Disks whose host file system refused to grow the volume, and until when they are left alone.
  std::vector<std::pair<DiskId, TimePoint>> host_full DFS_GUARDED_BY(view_mutex);
  // ... and when that was last, for status and so that the log says it once in a while.
  std::vector<std::pair<DiskId, TimePoint>> last_full DFS_GUARDED_BY(view_mutex);
  std::vector<DiskId> suspects DFS_GUARDED_BY(view_mutex);
  // Leaving, and nothing is put there any more in any case; or spare.
  std::vector<DiskId> closed DFS_GUARDED_BY(view_mutex);
  std::function<void(InodeId, FileBlock)> unrecoverable DFS_GUARDED_BY(view_mutex);
  // Rows with parity that a scrub has found wrong and could not judge, by group and row, and what is known of
  // the blocks that mappings name.
  Mutex doubtful_mutex;
  std::map<std::pair<ChunkId, std::uint32_t>, RowSums> doubtful_rows DFS_GUARDED_BY(doubtful_mutex);

  // The disks as they are now; tells the allocator when they have changed.
  std::shared_ptr<const PoolView> look();
  void look_for_closed() DFS_REQUIRES(view_mutex);
  void tell_allocator() DFS_REQUIRES(view_mutex);
  bool close_if_unused(DiskId disk);
  void note_host_full(DiskId disk);
  void note_suspects(std::vector<DiskId> disks);
  // Those that nothing new is put on.
  std::vector<DiskId> left_alone() const DFS_REQUIRES(view_mutex);
  // Before "no space" is said: space may have come back meanwhile. False: none was left alone.
  bool try_full_disks_again();

  Task<Result<Written>> write(WriteHint hint, std::span<const std::byte> data);
  Task<Result<std::vector<Piece>>> allocate(Allocator::Request request);
  Task<Result<void>> write_copies(std::shared_ptr<const PoolView> disks,
                                  std::span<const Piece> pieces, std::span<const std::byte> data,
                                  scheduler::IoClass io_class);
  Task<Result<void>> promise(std::uint64_t blocks, journal::Policy policy);

  Task<Result<void>> read(const FileMap& map, InodeId inode, FileBlock first, Buffer& out,
                          scheduler::IoClass io_class);
  Task<Result<void>> read_once(const FileMap& map, InodeId inode, FileBlock first, Buffer& out,
                               scheduler::IoClass io_class, bool* changed);
  void hedge(const PoolView& disks, ReadPlan& plan, ReadRound& round, scheduler::IoClass io_class);
  void take_back(ReadPlan& plan, ReadRound& round, Buffer& out);
  void copy_mappings(const FileMap& map, InodeId inode, FileBlock first, std::uint64_t count,
                     MappingSet& set);
  void verify(const PoolView& disks, ReadPlan& plan, const Fetch& fetch, InodeId inode,
              std::vector<Fetch>& again);
  void give_up(const PoolView& disks, const FileMap& map, ReadPlan& plan, const Fetch& fetch,
               InodeId inode);
  void count_damage(const ReadPlan& plan, const Fetch& fetch, InodeId inode);
  void tell_lost(const ReadPlan& plan, InodeId inode);
  Task<void> reconstruct(std::shared_ptr<const PoolView> disks, ReadPlan* plan, Fetch fetch,
                         InodeId inode, scheduler::IoClass io_class, std::vector<Fetch>* lost);
  Task<void> note_read_failure(Fetch& fetch, const scheduler::Disk& disk, Error failure);
  Task<std::uint64_t> repair(std::shared_ptr<const PoolView> disks, ReadPlan& plan);

  Task<Result<journal::ScrubCounts>> scrub(const FileMap& map, InodeId inode, FileBlock first,
                                           std::uint64_t count, ScrubOf of);
  Task<Result<void>> scrub_once(const FileMap& map, InodeId inode, FileBlock first,
                                std::uint64_t count, ScrubOf of, journal::ScrubCounts* counts,
                                bool* changed);

  Task<void> scrub_parity(std::shared_ptr<const PoolView> disks, const ReadPlan* plan,
                          std::vector<Fetch> fetches, journal::ScrubCounts* counts);
  Task<bool> scrub_rows(std::shared_ptr<const PoolView> disks, const RightData* right,
                        const ParityGroup* group, std::uint32_t row, std::uint32_t rows,
                        journal::ScrubCounts* counts, std::vector<std::uint32_t>* doubtful);
  void note_doubtful(const FileMap& map, FileBlock first, std::uint64_t count);
  Task<journal::ScrubCounts> scrub_doubtful();

  struct Columns;
  Task<Result<bool>> move_chunk(ChunkId chunk, std::optional<DiskId> off, bool only_to_emptier);
  bool beside_reads(const PoolView& disks);
  Task<Result<void>> await_settled(const Allocator::Move* move);
  Task<Result<void>> copy_chunk(std::shared_ptr<const PoolView> disks, const Allocator::Move* move);
  Task<Result<void>> flush_new_places(std::shared_ptr<const PoolView> disks,
                                      const Allocator::Move* move);
  Task<Result<void>> copy_rows(std::shared_ptr<const PoolView> disks, const Allocator::Move* move,
                               const BlockWords* needed, std::uint32_t row, std::uint32_t rows);
  Task<Result<void>> gather(std::shared_ptr<const PoolView> disks, const Allocator::Move* move,
                            const ErasureCodec* codec, std::uint32_t row, std::uint32_t rows,
                            Columns* out);
  Task<void> read_places(std::shared_ptr<const PoolView> disks, const Allocator::Move* move,
                         std::uint32_t row, std::uint32_t rows, std::vector<std::size_t> places,
                         Columns* out);

  Task<std::optional<std::size_t>> first_missing(Claims claims);

  Task<void> reclaim();
  // Waits for pending space; false if there is nothing left to wait for.
  Task<Result<bool>> make_room(unsigned round);
};

}  // namespace dynamicfs::extent
