// What a run of the matrix does with its disks and files: see matrix.hpp.
#include "journal/pool.hpp"
#include "tests/fs/matrix.hpp"

namespace dynamicfs::test {
namespace {

// A new pool's disks, formatted once for each policy and size.
std::vector<scheduler::SimulatedMedia> formatted(const SimPoolOptions& options) {
  static std::map<std::string, std::vector<scheduler::SimulatedMedia>> known;
  const std::string key =
      fmt::format("{} {}", options.policy.text(), fmt::join(options.disk_bytes, " "));
  auto& media = known[key];
  if (media.empty()) {
    SimPool pool(1, options);
    pool.format();
    for (const auto& medium : pool.media) media.push_back(medium->clone());
  }
  return media;
}

Task<Result<journal::Superblock>> superblock_on(scheduler::Disk* disk) {
  auto found = co_await journal::read_superblock(*disk);
  co_return found;
}

bool newer(const journal::Superblock& a, const journal::Superblock& b) {
  const auto rank = [](const journal::Superblock& of) {
    return std::pair{of.epoch().number.raw, of.sequence};
  };
  return rank(a) > rank(b);
}

}  // namespace

// Disks.

void MatrixRun::make_pool() {
  SimPoolOptions options;
  options.disk_bytes = sizes_;
  options.policy = in_force_[0];
  options.rebuild_after = std::chrono::seconds{6 + draw(20)};
  std::vector<scheduler::SimulatedMedia> media = formatted(options);
  pool_ = std::make_unique<SimPool>(seed_, options);
  for (std::size_t i = 0; i < media.size(); ++i) *pool_->media[i] = std::move(media[i]);
  pool_->on_open = [this](std::size_t index, scheduler::SimulatedDisk& disk) {
    device_[index] = &disk;
    disk.on_device_operation([this](std::uint64_t) { tick(); });
  };
  if (!try_mount()) fail("a new pool is refused");
}

// Before each write and flush of any disk.
void MatrixRun::tick() {
  const std::uint64_t now = operations_++;
  for (Doom& doom : dooms_) {
    if (!doom.done && now >= doom.at) strike(doom);
  }
  if (now >= stop_.at) stop_now();
}

void MatrixRun::lose(std::size_t disk) {
  if (gone_.size() + stale_.size() < tolerance()) {
    lacking_.insert(disk);
  } else if (own_directory_) {
    risky_ = true;
  }
  stale_.erase(disk);
  gone_.insert(disk);
}

void MatrixRun::strike(Doom& doom) {
  doom.done = true;
  if (live_) note_left();
  if (left_.contains(doom.disk) || !device_.contains(doom.disk) || stop_.done) return;
  counts_.lost += 1;
  if (!gone_.empty()) ++(gone_.size() < tolerance() ? counts_.seconds : counts_.beyond);
  if (gone_.empty() && tolerance() == 0) ++counts_.beyond;
  lose(doom.disk);
  say("disk {} is lost{}, at operation {}", doom.disk, doom.by_errors ? ", by errors" : "",
      operations_);
  scheduler::SimulatedDisk& device = *device_[doom.disk];
  if (!doom.by_errors) {
    device.fail();
    return;
  }
  device.faults().fail = [](const scheduler::IoRequest& request) {
    return request.op == scheduler::IoOp::kRead    ? Code::kOk
           : request.op == scheduler::IoOp::kWrite ? Code::kDiskWrite
                                                   : Code::kDiskFlush;
  };
}

void MatrixRun::stop_now() {
  if (stop_.done) return;
  stop_.done = true;
  say("{} at operation {}", stop_.kill ? "killed" : "power cut", operations_);
  ++(stop_.kill ? counts_.kills : counts_.cuts);
  for (const auto& [index, device] : device_) {
    if (stop_.kill && !gone_.contains(index)) {
      device->kill();
    } else {
      device->power_cut();
    }
  }
}

void MatrixRun::doom(std::size_t disk, std::uint64_t after) {
  dooms_.push_back({.disk = disk, .at = operations_ + after, .by_errors = chance(30)});
}

void MatrixRun::stop_after(std::uint64_t operations) {
  stop_ = {.at = operations_ + operations, .kill = chance(50)};
}

std::uint64_t MatrixRun::some_operations() {
  const std::uint64_t most[] = {8, 40, 200};
  return draw(most[draw(3)]);
}

unsigned MatrixRun::tolerance() const {
  unsigned least = ~0u;
  for (const journal::Policy& policy : in_force_) least = std::min(least, policy.tolerance());
  return own_directory_ ? std::min(least, 1u) : least;
}

bool MatrixRun::beyond() const { return gone_.size() + stale_.size() > tolerance(); }

std::vector<std::size_t> MatrixRun::candidates() const {
  std::vector<std::size_t> out;
  for (const auto& [index, id] : ids_) {
    if (!gone_.contains(index) && !stale_.contains(index) && !left_.contains(index))
      out.push_back(index);
  }
  return out;
}

bool MatrixRun::is_leaving(std::size_t disk) {
  const auto superblock = pool_->fs().pool().superblock();
  const journal::DiskRecord* const record = superblock.find(id(disk));
  return record == nullptr || record->leaving;
}

void MatrixRun::add_disk() {
  const std::size_t index = pool_->media.size();
  say("disk {} is added", index);
  const Result<DiskId> added = pool_->add_disk(40 * kMiB + (12 + draw(8)) * kSlotBytes);
  if (added.has_value()) {
    ids_[index] = *added;
  } else {
    device_.erase(index);
    if (!stop_.done && !beyond()) fail("add a disk: " + describe(added.error()));
  }
}

std::vector<std::size_t> MatrixRun::strangers() {
  std::map<std::size_t, journal::Superblock> known;
  std::vector<std::size_t> out;
  const journal::Superblock* newest = nullptr;
  for (std::size_t i = 0; i < pool_->media.size(); ++i) {
    if (gone_.contains(i)) continue;
    scheduler::SimulatedDisk look(pool_->executor, "look", pool_->media[i], i);
    auto found = pool_->run(superblock_on(&look));
    if (!found.has_value()) {
      out.push_back(i);
      continue;
    }
    const journal::Superblock& superblock = known[i] = std::move(found).value();
    if (newest == nullptr || newer(superblock, *newest)) newest = &superblock;
  }
  if (newest == nullptr) {
    if (!beyond()) fail("no disk has a superblock");
    return out;
  }
  for (const auto& [index, superblock] : known) {
    const journal::DiskRecord* const own = superblock.find(superblock.this_disk);
    const journal::DiskRecord* const record = newest->find(superblock.this_disk);
    if (own == nullptr || record == nullptr || record->uuid != own->uuid) {
      out.push_back(index);
    } else {
      ids_[index] = superblock.this_disk;
    }
  }
  for (const std::size_t index : out) {
    const auto id = ids_.find(index);
    if (id != ids_.end() && newest->find(id->second) != nullptr && !left_.contains(index) &&
        !known.contains(index))
      fail(fmt::format("disk {} has no superblock", index));
  }
  return out;
}

bool MatrixRun::try_mount() {
  stop_ = {};
  for (int tries = 0;; ++tries) {
    std::vector<std::size_t> away(gone_.begin(), gone_.end());
    for (const std::size_t index : strangers()) away.push_back(index);
    operations_ = 0;
    if (live_known_ && tries < 2 && chance(20))
      stop_ = {.at = draw(draw(2) == 0 ? 6 : 40), .kill = chance(50)};
    device_.clear();
    const Result<void> mounted = pool_->mount(away);
    if (stop_.done) {
      say("stopped while mounting");
      ++counts_.recoveries_cut;
      leave();
      stop_ = {};
      continue;
    }
    stop_ = {};
    if (mounted.has_value()) {
      live_ = live_known_ = true;
      note_left();
      return true;
    }
    device_.clear();
    if (beyond() && mounted.error().code == Code::kDiskMissing) return false;
    // A stronger policy is already what the superblock tolerates, and the runs have the copies of the weaker one still.
    if (beyond() && in_force_.size() > 1 && mounted.error().code == Code::kCorrupt) return false;
    fail(fmt::format("cannot be mounted: {} {}", describe(mounted.error()), pool_->problem.text));
  }
}

void MatrixRun::leave() {
  pool_->power_cut();
  device_.clear();
  background_.clear();
  live_ = false;
}

void MatrixRun::note_left() {
  const journal::Superblock superblock = pool_->fs().pool().superblock();
  if (ids_.empty())
    for (const journal::DiskRecord& disk : superblock.disks) ids_[disk.id.raw] = disk.id;
  for (const auto& [index, id] : ids_) {
    const bool has = superblock.find(id) != nullptr;
    // That it had left was not durable.
    if (has && left_.erase(index) != 0) stale_.insert(index);
    if (has || left_.contains(index)) continue;
    say("disk {} has left", index);
    ++counts_.rebuilt;
    left_.insert(index);
    gone_.erase(index);
    stale_.erase(index);
    lacking_.erase(index);
  }
}

void MatrixRun::make_possible(std::size_t more) {
  if (stop_.done) return;
  note_left();
  std::size_t widest = own_directory_ ? 2 : 1;
  for (const journal::Policy& policy : in_force_)
    widest = std::max<std::size_t>(widest, policy.width());
  for (int i = 0; i < 20; ++i) {
    std::vector<std::size_t> disks = candidates();
    disks.insert(disks.end(), stale_.begin(), stale_.end());
    const auto staying =
        std::ranges::count_if(disks, [this](std::size_t disk) { return !is_leaving(disk); });
    if (static_cast<std::size_t>(staying) >= widest + more || stop_.done) return;
    add_disk();
  }
}

bool MatrixRun::is_whole() {
  note_left();
  // Perhaps nobody has noticed yet.
  if (!gone_.empty()) return false;
  fs::Filesystem& filesystem = pool_->fs();
  if (filesystem.pool().degraded() || filesystem.pool().rebalancing() ||
      filesystem.store().misplaced_bytes() != 0 || filesystem.reencode_report().pending)
    return false;
  return std::ranges::none_of(filesystem.pool().status(), [](const journal::DiskStatus& disk) {
    return disk.health != journal::DiskHealth::kHealthy || disk.record.leaving;
  });
}

std::string MatrixRun::state() {
  std::string out;
  fs::Filesystem& filesystem = pool_->fs();
  for (const journal::DiskStatus& disk : filesystem.pool().status()) {
    out += fmt::format(" {} {}{}{},", disk.record.id, disk_health_name(disk.health),
                       disk.record.leaving ? " leaving" : "", disk.record.lost ? " lost" : "");
  }
  const fs::RebuildReport rebuild = filesystem.rebuild_report();
  const fs::ReencodeReport encoding = filesystem.reencode_report();
  return fmt::format("{} {} bytes misplaced, {} chunks stuck ({}); encoding {}, {} bytes stuck{}",
                     out, rebuild.left_bytes, rebuild.stuck_chunks, describe(rebuild.obstacle),
                     encoding.pending, encoding.stuck_bytes,
                     filesystem.pool().read_only() ? "; read-only" : "");
}

// Operations.

void MatrixRun::set_policy_of(const std::string& path, const std::string& policy) {
  need(pool_->run(pool_->fs().setxattr(pool_->resolve(path).value(), std::string{fs::kPolicyXattr},
                                       policy, fs::XattrMode::kEither, false)),
       "set a policy");
}

std::string MatrixRun::any_name() {
  const bool own = own_directory_ && chance(40);
  return fmt::format("{}f{}", own ? "safe/" : "", draw(14));
}

std::string MatrixRun::any_file() {
  const Tree& tree = timeline_.now();
  if (tree.empty()) return "";
  return std::next(tree.begin(), static_cast<std::ptrdiff_t>(draw(tree.size())))->first;
}

void MatrixRun::step(const std::string& name, Tree next,
                     const std::function<Result<void>()>& real) {
  if (stop_.done) return;
  timeline_.begin(std::move(next));
  const Result<void> done = real();
  if (done.has_value()) {
    changed_by_[name] = timeline_.newest();
    return;
  }
  if (stop_.done) return;  // it may have happened
  timeline_.take_back();
  if (done.error().code == Code::kNotSupported || beyond()) return;
  fail(fmt::format("an operation on {} fails: {} ({})", name, describe(done.error()), state()));
}

void MatrixRun::write(const std::string& name) {
  if (!timeline_.now().contains(name)) {
    Tree next = timeline_.now();
    next[name] = std::make_shared<const std::string>();
    step(name, std::move(next), [&] { return pool_->create(name); });
    if (!timeline_.now().contains(name)) return;
  }
  const std::string& old = *timeline_.now().at(name);
  const std::size_t most[] = {5'000, 60'000, 300'000, 900'000};
  const std::size_t size = 1 + draw(most[draw(4)]);
  std::size_t from = old.empty() || chance(30) ? 0 : draw(old.size() + 5000);
  if (chance(40)) from = align_down(from, kBlockBytes);
  const std::string text = bytes_of(seed_ * 1'000'003 + ++text_, size);
  std::string whole = old;
  if (whole.size() < from + size) whole.resize(from + size);
  whole.replace(from, size, text);
  Tree next = timeline_.now();
  next[name] = std::make_shared<const std::string>(std::move(whole));
  step(name, std::move(next), [&] { return pool_->write(name, from, text); });
}

void MatrixRun::sync(const std::string& name) {
  const std::size_t before = timeline_.newest();
  const bool all = name.empty() || chance(50);
  const Result<void> done = all ? pool_->run(pool_->fs().sync()) : pool_->fsync(name);
  if (done.has_value()) {
    if (risky_) return;
    // What one file has had done to it, and so everything before.
    const auto changed = changed_by_.find(name);
    timeline_.sync(all ? before : changed == changed_by_.end() ? 0 : changed->second);
  } else if (!stop_.done && !beyond()) {
    fail(fmt::format("sync fails: {} ({})", describe(done.error()), state()));
  }
}

void MatrixRun::operate() {
  if (stop_.done) return;
  std::size_t bytes = 0;
  for (const auto& [path, text] : timeline_.now()) bytes += text->size();
  const std::uint64_t kind = bytes > kBytesMax ? 60 : draw(100);
  const std::string name = any_file();
  Tree next = timeline_.now();
  if (kind < 45 || name.empty()) {
    write(kind < 20 && !name.empty() ? name : any_name());
  } else if (kind < 55) {
    std::string text = *next[name];
    const std::size_t size = draw(text.size() + 3000);
    text.resize(size);
    next[name] = std::make_shared<const std::string>(std::move(text));
    step(name, std::move(next), [&] { return pool_->truncate(name, size); });
  } else if (kind < 63) {
    next.erase(name);
    step(name, std::move(next), [&] { return pool_->unlink(name); });
  } else if (kind < 70) {
    const std::string to = any_name();
    if (to == name) return;
    next[to] = next[name];
    next.erase(name);
    step(to, std::move(next), [&] { return pool_->rename(name, to); });
  } else if (kind < 76) {
    const std::string to = any_name();
    if (next.contains(to) || next[name]->empty()) return;
    next[to] = std::make_shared<const std::string>();
    step(to, next, [&] { return pool_->create(to); });
    if (!timeline_.now().contains(to)) return;
    next[to] = next[name];
    const std::size_t size = next[name]->size();
    step(to, std::move(next), [&] { return pool_->copy_range(name, 0, to, 0, size); });
  } else if (kind < 82) {
    std::string text = *next[name];
    if (text.empty()) return;
    const std::size_t from = draw(text.size());
    const std::size_t size = 1 + draw(text.size() - from);
    text.replace(from, size, std::string(size, '\0'));
    next[name] = std::make_shared<const std::string>(std::move(text));
    step(name, std::move(next), [&]() -> Result<void> {
      const InodeId inode = TRY(pool_->resolve(name));
      return pool_->run(pool_->fs().fallocate(inode, fs::FallocateMode::kPunchHole, from, size));
    });
  } else if (kind < 95) {
    sync(name);
  } else {
    const Result<void> done = pool_->run(pool_->fs().checkpoint());
    if (!done.has_value() && !stop_.done && !beyond() && done.error().code != Code::kBusy)
      fail(fmt::format("a checkpoint fails: {} ({})", describe(done.error()), state()));
  }
}

void MatrixRun::verify(const char* where) {
  const std::optional<FoundTree> found = look(where);
  if (found) timeline_.check_now(*found, where);
}

// Nothing if it has stopped meanwhile, or metadata is beyond what is tolerated.
std::optional<FoundTree> MatrixRun::look(const char* where) {
  while (!stop_.done) {
    const std::size_t before = gone_.size();
    try {
      FoundTree found = read_tree(*pool_, beyond(), at_risk_);
      if (stop_.done) break;
      return found;
    } catch (const Unreadable&) {
      if (stop_.done || beyond()) break;
      if (before == gone_.size()) throw;
    } catch (const Violation& violation) {
      if (stop_.done) break;
      if (before == gone_.size())
        fail(fmt::format("{}: {} ({})", where, violation.what(), state()));
    }
  }
  return std::nullopt;
}

void MatrixRun::remove_what_is_gone() {
  for (const std::string& path : at_risk_) {
    Tree next = timeline_.now();
    if (next.erase(path) == 0) continue;
    step(path, std::move(next), [&] { return pool_->unlink(path); });
  }
  if (at_risk_.empty()) return;
  need(pool_->run(pool_->fs().sync()), "sync");
  timeline_.sync();
  risky_ = false;
  at_risk_.clear();
}

void MatrixRun::verify_recovered(const char* where) {
  if (risky_) at_risk_.merge(timeline_.unsynced());
  const std::optional<FoundTree> read = look(where);
  if (!read && beyond()) return;
  if (!read) fail("stopped before its time");
  const FoundTree& found = *read;
  timeline_.check_recovered(found, where);
  changed_by_.clear();
  if (beyond() || risky_) return;
  const auto& metrics = pool_->fs().store().metrics();
  if (metrics.unrecoverable_blocks.sum() != 0 || metrics.checksum_stale.sum() != 0)
    fail(fmt::format("{}: blocks without a good copy, or stale", where));
}

void MatrixRun::check_whole_now(const char* where) {
  const auto report = pool_->run(pool_->fs().check_tree());
  if (!report.has_value()) fail(fmt::format("{}: check: {}", where, describe(report.error())));
  if (report->problem_count != 0)
    fail(fmt::format("{}: check: {}", where, report->problems.front()));
  const extent::Store& store = pool_->fs().store();
  if (store.live_blocks() + store.saved_blocks() != report->data_blocks ||
      store.saved_blocks() != report->saved_blocks) {
    fail(fmt::format("{}: {} blocks live and {} saved, files have {} and save {}", where,
                     store.live_blocks(), store.saved_blocks(), report->data_blocks,
                     report->saved_blocks));
  }
}

}  // namespace dynamicfs::test
