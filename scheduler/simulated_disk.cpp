#include "scheduler/simulated_disk.hpp"

#include <cerrno>
#include <cstring>
#include <random>
#include <unordered_map>

#include "base/assert.hpp"
#include "scheduler/accounting.hpp"

namespace dynamicfs::scheduler {
namespace {

constexpr std::uint64_t kSectorBytes = 512;
constexpr std::uint64_t kSectorsPerBlock = kBlockBytes / kSectorBytes;

Error simulated_error(Code code, const IoRequest& request) {
  switch (code) {
    case Code::kNoSpace: return system_error(Code::kDiskWrite, ENOSPC, request.offset_bytes);
    case Code::kDiskRead:
    case Code::kDiskWrite:
    case Code::kDiskFlush: return system_error(code, EIO, request.offset_bytes);
    default: return error(code, request.offset_bytes);
  }
}

}  // namespace

struct SimulatedDisk::Impl : std::enable_shared_from_this<SimulatedDisk::Impl> {
  using Block = SimulatedMedia::Block;

  // A write that completed and is not on the media for certain.
  struct CachedWrite {
    std::uint64_t sequence = 0;
    std::uint64_t first_block = 0;
    std::vector<Block> blocks;
    // Written durably on top of older cached writes of the same blocks. It waits here only so that
    // they cannot come up from below it later; nothing may lose it.
    bool durable = false;
  };
  // What a read sees of a block that cached writes cover.
  struct Visible {
    Block content;
    std::size_t writes = 0;  // cached writes that cover it
  };

  Impl(SimExecutor& on_executor, LatencyWatch& of_disk, std::string disk_path,
       std::shared_ptr<SimulatedMedia> on_media, std::uint64_t seed, SimulatedLatency with_latency,
       unsigned depth)
      : executor(on_executor),
        latency_watch(of_disk),
        path(std::move(disk_path)),
        media(std::move(on_media)),
        latency(with_latency),
        generator(seed),
        queue({.depth = depth, .rotational = false}) {}

  std::uint64_t draw(std::uint64_t below) { return generator() % below; }
  bool refuses() const { return failed || cut; }

  // The way of a request.
  void start_all();
  static dynamicfs::detail::Detached serve(std::shared_ptr<Impl> disk, std::uint64_t id,
                                           Duration after);
  static dynamicfs::detail::Detached keep_time(std::shared_ptr<Impl> disk, TimePoint until);
  void arrive(std::uint64_t id);
  void note_completed(const IoRequest& request);
  Error apply(const IoRequest& request, Code code);
  static dynamicfs::detail::Detached refuse(std::shared_ptr<Impl> disk, IoRequest* request,
                                            Error why);
  void refuse_queued();
  void leave_writes_behind();

  // The cache.
  Block visible(std::uint64_t block) const;
  void read(const IoRequest& request) const;
  CachedWrite write_of(const IoRequest& request) const;
  void cache(CachedWrite write);
  void flush(std::uint64_t before_sequence);
  void flush_badly(std::uint64_t before_sequence);
  void rebuild_visible();
  template <class Under>
  void tear(CachedWrite& write, Under under);
  void stop(bool process_only);

  SimExecutor& executor;
  LatencyWatch& latency_watch;  // of the disk, which outlives its requests
  const std::string path;
  const std::shared_ptr<SimulatedMedia> media;
  const SimulatedLatency latency;
  std::mt19937_64 generator;
  DiskMetrics metrics;
  SimulatedFaults faults;
  std::function<void(std::uint64_t)> hook;

  IoQueue queue;
  std::uint64_t next_id = 0;
  std::map<std::uint64_t, IoRequest*> in_flight;  // by id, so in the order they started
  std::vector<std::coroutine_handle<>> parked;    // of requests whose time has come on a hung disk
  std::size_t refusals = 0;                       // posted, not yet run
  bool timekeeper = false;                        // asleep until the pace lets background start
  bool failed = false;
  bool cut = false;

  std::vector<CachedWrite> cached;                     // in the order they completed
  std::unordered_map<std::uint64_t, Visible> overlay;  // by block
  std::uint64_t next_sequence = 0;
  std::uint64_t device_operations = 0;
  std::uint64_t unflushed_until = 0;  // sequence behind the last non-durable write
  std::uint64_t flushed_until = 0;    // sequence the last good flush covered
};

void SimulatedDisk::Impl::start_all() {
  while (IoRequest* const request = queue.pop(executor.now())) {
    note_started(metrics, *request);
    const auto range = static_cast<std::uint64_t>((latency.max - latency.min).count()) + 1;
    const Duration after = latency.min + Duration{static_cast<std::int64_t>(draw(range))};
    const std::uint64_t id = next_id++;
    in_flight.emplace(id, request);
    serve(shared_from_this(), id, after);
  }
  const auto until = queue.paced_until(executor.now());
  if (until && !timekeeper) keep_time(shared_from_this(), *until);
}

dynamicfs::detail::Detached SimulatedDisk::Impl::keep_time(std::shared_ptr<Impl> disk,
                                                           TimePoint until) {
  disk->timekeeper = true;
  co_await disk->executor.sleep_until(until);
  disk->timekeeper = false;
  disk->start_all();
}

dynamicfs::detail::Detached SimulatedDisk::Impl::serve(std::shared_ptr<Impl> disk, std::uint64_t id,
                                                       Duration after) {
  struct Park {
    Impl& disk;
    bool await_ready() const noexcept { return false; }
    void await_suspend(std::coroutine_handle<> handle) { disk.parked.push_back(handle); }
    void await_resume() const noexcept {}
  };
  co_await disk->executor.sleep(after);
  while (disk->faults.hung && disk->in_flight.contains(id)) {
    Park park{*disk};
    co_await park;
  }
  disk->arrive(id);
}

void SimulatedDisk::Impl::arrive(std::uint64_t id) {
  const auto it = in_flight.find(id);
  if (it == in_flight.end()) return;  // the power was cut meanwhile
  IoRequest& request = *it->second;
  if (request.op == IoOp::kWrite || request.op == IoOp::kFlush) {
    const std::uint64_t operation = device_operations++;
    if (hook) {
      const auto called = hook;  // it may replace itself
      called(operation);
      if (!in_flight.contains(id)) return;  // it has cut the power, or failed this disk
    }
  }
  const Code code = faults.fail ? faults.fail(request) : Code::kOk;
  if (!in_flight.contains(id)) return;
  request.error = apply(request, code);
  in_flight.erase(it);
  note_completed(request);
  start_all();
  request.on_complete(request);
}

void SimulatedDisk::Impl::note_completed(const IoRequest& request) {
  const TimePoint now = executor.now();
  scheduler::note_completed(metrics, latency_watch, request, now);
  if (queue.completed(request, now)) note_late(metrics, latency_watch, request, now);
}

// The effect on cache and media, and the answer.
Error SimulatedDisk::Impl::apply(const IoRequest& request, Code code) {
  switch (request.op) {
    case IoOp::kRead: {
      if (code != Code::kOk) {
        for (std::size_t i = 0; i < request.size_bytes; ++i) request.data[i] = std::byte{0xEE};
        break;
      }
      read(request);
      break;
    }
    case IoOp::kWrite: {
      const std::uint64_t sequence = next_sequence++;
      if (!request.durable) unflushed_until = next_sequence;
      if (code == Code::kOk && faults.lose && faults.lose(request)) break;
      CachedWrite write = write_of(request);
      write.sequence = sequence;
      if (code != Code::kOk) {
        write.durable = false;
        tear(write, [this](std::uint64_t block) { return visible(block); });
      } else if (faults.misdirect) {
        const std::uint64_t elsewhere = faults.misdirect(request);
        DFS_ASSERT(elsewhere % kBlockBytes == 0 && elsewhere <= media->size_bytes() &&
                   request.size_bytes <= media->size_bytes() - elsewhere);
        write.first_block = elsewhere / kBlockBytes;
      }
      cache(std::move(write));
      if (request.flushes && code != Code::kOk) flush_badly(request.tag);
      if (request.flushes && code == Code::kOk) {
        flush(request.tag);
        flushed_until = std::max(flushed_until, request.tag);
      }
      break;
    }
    case IoOp::kFlush: {
      if (code != Code::kOk) {
        flush_badly(request.tag);
        break;
      }
      flush(request.tag);
      flushed_until = std::max(flushed_until, request.tag);
      break;
    }
    case IoOp::kCheck: break;
  }
  return code == Code::kOk ? Error{} : simulated_error(code, request);
}

dynamicfs::detail::Detached SimulatedDisk::Impl::refuse(std::shared_ptr<Impl> disk,
                                                        IoRequest* request, Error why) {
  ++disk->refusals;
  co_await disk->executor.yield();
  --disk->refusals;
  request->error = why;
  request->on_complete(*request);
}

void SimulatedDisk::Impl::refuse_queued() {
  while (IoRequest* const request = queue.drain()) {
    note_refused(metrics, *request, true);
    refuse(shared_from_this(), request, error(Code::kDiskGone));
  }
}

// What the device has of writes it does in part, or not; nobody waits for them any more.
void SimulatedDisk::Impl::leave_writes_behind() {
  std::erase_if(in_flight, [this](const auto& entry) {
    IoRequest& request = *entry.second;
    if (request.op == IoOp::kRead && request.memory == nullptr) return false;
    if (request.op == IoOp::kWrite) {
      ++device_operations;
      CachedWrite write = write_of(request);
      write.sequence = next_sequence++;
      unflushed_until = next_sequence;
      write.durable = false;
      tear(write, [this](std::uint64_t block) { return visible(block); });
      cache(std::move(write));
    }
    request.error = error(Code::kDiskGone);
    note_completed(request);
    refuse(shared_from_this(), &request, error(Code::kDiskGone));
    return true;
  });
  // Those whose requests are gone find that out and end.
  for (const auto handle : parked) executor.post(handle);
  parked.clear();
}

SimulatedDisk::Impl::Block SimulatedDisk::Impl::visible(std::uint64_t block) const {
  const auto it = overlay.find(block);
  return it != overlay.end() ? it->second.content : media->block(block);
}

void SimulatedDisk::Impl::read(const IoRequest& request) const {
  for (std::uint64_t i = 0; i < request.size_bytes / kBlockBytes; ++i) {
    const Block content = visible(request.offset_bytes / kBlockBytes + i);
    std::byte* const to = request.data + i * kBlockBytes;
    if (content == nullptr) {
      std::memset(to, 0, kBlockBytes);
    } else {
      std::memcpy(to, content->data(), kBlockBytes);
    }
  }
}

SimulatedDisk::Impl::CachedWrite SimulatedDisk::Impl::write_of(const IoRequest& request) const {
  CachedWrite write;
  write.first_block = request.offset_bytes / kBlockBytes;
  write.durable = request.durable;
  for (std::uint64_t i = 0; i < request.size_bytes / kBlockBytes; ++i) {
    write.blocks.push_back(
        SimulatedMedia::make_block({request.data + i * kBlockBytes, kBlockBytes}));
  }
  return write;
}

void SimulatedDisk::Impl::cache(CachedWrite write) {
  if (write.durable) {
    bool over_cached = false;
    for (std::size_t i = 0; i < write.blocks.size(); ++i) {
      over_cached = over_cached || overlay.contains(write.first_block + i);
    }
    if (!over_cached) {
      for (std::size_t i = 0; i < write.blocks.size(); ++i) {
        media->put(write.first_block + i, std::move(write.blocks[i]));
      }
      return;
    }
  }
  for (std::size_t i = 0; i < write.blocks.size(); ++i) {
    Visible& block = overlay[write.first_block + i];
    block.content = write.blocks[i];
    ++block.writes;
  }
  cached.push_back(std::move(write));
}

void SimulatedDisk::Impl::flush(std::uint64_t before_sequence) {
  std::size_t covered = 0;
  for (; covered < cached.size() && cached[covered].sequence < before_sequence; ++covered) {
    CachedWrite& write = cached[covered];
    for (std::size_t i = 0; i < write.blocks.size(); ++i) {
      const std::uint64_t block = write.first_block + i;
      media->put(block, std::move(write.blocks[i]));
      const auto it = overlay.find(block);
      if (--it->second.writes == 0) overlay.erase(it);
    }
  }
  cached.erase(cached.begin(), cached.begin() + static_cast<std::ptrdiff_t>(covered));
}

// Half of what it should have covered is gone, the rest stays cached; a flush after it will
// succeed.
void SimulatedDisk::Impl::flush_badly(std::uint64_t before_sequence) {
  std::erase_if(cached, [&](const CachedWrite& write) {
    return !write.durable && write.sequence < before_sequence && draw(2) == 0;
  });
  rebuild_visible();
}

void SimulatedDisk::Impl::rebuild_visible() {
  overlay.clear();
  for (const CachedWrite& write : cached) {
    for (std::size_t i = 0; i < write.blocks.size(); ++i) {
      Visible& block = overlay[write.first_block + i];
      block.content = write.blocks[i];
      ++block.writes;
    }
  }
}

// Leaves a prefix or an arbitrary subset of the sectors of `write`; the others are what `under`
// says lies below.
template <class Under>
void SimulatedDisk::Impl::tear(CachedWrite& write, Under under) {
  const std::uint64_t sectors = write.blocks.size() * kSectorsPerBlock;
  const bool prefix = draw(2) == 0;
  const std::uint64_t prefix_sectors = draw(sectors + 1);
  for (std::size_t i = 0; i < write.blocks.size(); ++i) {
    const Block below = under(write.first_block + i);
    Bytes torn = below == nullptr ? Bytes(kBlockBytes) : *below;
    for (std::uint64_t k = 0; k < kSectorsPerBlock; ++k) {
      const bool kept = prefix ? i * kSectorsPerBlock + k < prefix_sectors : draw(2) == 0;
      if (!kept) continue;
      std::byte* const to = torn.data() + k * kSectorBytes;
      if (write.blocks[i] == nullptr) {
        std::memset(to, 0, kSectorBytes);
      } else {
        std::memcpy(to, write.blocks[i]->data() + k * kSectorBytes, kSectorBytes);
      }
    }
    write.blocks[i] = SimulatedMedia::make_block(torn);
  }
}

// `process_only`: the machine goes on, and with it what the device has in its cache.
void SimulatedDisk::Impl::stop(bool process_only) {
  cut = true;
  const std::size_t completed = cached.size();
  // What the device has but did not answer is no different from what it has cached, except that
  // even a durable write may be lost.
  for (const auto& [id, request] : in_flight) {
    if (request->op != IoOp::kWrite) continue;
    cached.push_back(write_of(*request));
    cached.back().durable = false;
  }
  for (std::size_t i = 0; i < cached.size(); ++i) {
    CachedWrite& write = cached[i];
    const bool safe = write.durable || (process_only && i < completed);
    const std::uint64_t fate = safe ? 0 : draw(3);
    if (fate == 1) continue;
    if (fate == 2) tear(write, [this](std::uint64_t block) { return media->block(block); });
    for (std::size_t k = 0; k < write.blocks.size(); ++k) {
      media->put(write.first_block + k, std::move(write.blocks[k]));
    }
  }
  cached.clear();
  overlay.clear();

  for (const auto& [id, request] : in_flight) {
    request->error = error(Code::kDiskGone);
    note_completed(*request);
    refuse(shared_from_this(), request, error(Code::kDiskGone));
  }
  in_flight.clear();
  refuse_queued();
  for (const auto handle : parked) executor.post(handle);
  parked.clear();
}

SimulatedDisk::SimulatedDisk(SimExecutor& executor, std::string path,
                             std::shared_ptr<SimulatedMedia> media, std::uint64_t seed,
                             SimulatedLatency latency, unsigned depth)
    : impl_(std::make_shared<Impl>(executor, Disk::latency(), std::move(path), std::move(media),
                                   seed, latency, depth)) {}

SimulatedDisk::~SimulatedDisk() {
  DFS_ASSERT(impl_->in_flight.empty());
  DFS_ASSERT(impl_->queue.queued() == 0);
  DFS_ASSERT(impl_->refusals == 0);
}

void SimulatedDisk::submit(IoRequest& request) {
  assert_well_formed(request);
  if (impl_->refuses()) {
    note_refused(impl_->metrics, request, false);
    request.error = error(Code::kDiskGone);
    request.on_complete(request);
    return;
  }
  if (!in_range(request, size_bytes())) {
    note_refused(impl_->metrics, request, false);
    Impl::refuse(impl_, &request, error(Code::kDiskRange, request.offset_bytes));
    return;
  }
  if (request.op == IoOp::kFlush || request.flushes) request.tag = impl_->next_sequence;
  note_queued(impl_->metrics, request);
  impl_->queue.push(request, impl_->executor.now());
  impl_->start_all();
}

std::uint64_t SimulatedDisk::size_bytes() const { return impl_->media->size_bytes(); }
const std::string& SimulatedDisk::path() const { return impl_->path; }
bool SimulatedDisk::needs_flush() const { return impl_->unflushed_until > impl_->flushed_until; }
const DiskMetrics& SimulatedDisk::metrics() const { return impl_->metrics; }
bool SimulatedDisk::failed() const { return impl_->refuses(); }
Lateness SimulatedDisk::lateness() const { return impl_->queue.lateness(impl_->executor.now()); }
SimulatedFaults& SimulatedDisk::faults() { return impl_->faults; }
void SimulatedDisk::power_cut() {
  if (!impl_->cut) impl_->stop(false);
}
void SimulatedDisk::kill() {
  if (!impl_->cut) impl_->stop(true);
}
std::uint64_t SimulatedDisk::device_operations() const { return impl_->device_operations; }
void SimulatedDisk::on_device_operation(std::function<void(std::uint64_t)> hook) {
  impl_->hook = std::move(hook);
}

void SimulatedDisk::fail() {
  impl_->failed = true;
  impl_->leave_writes_behind();
  impl_->refuse_queued();
}

void SimulatedDisk::release() {
  impl_->faults.hung = false;
  for (const auto handle : impl_->parked) impl_->executor.post(handle);
  impl_->parked.clear();
}

}  // namespace dynamicfs::scheduler
