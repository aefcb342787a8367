#include "tests/fs/matrix.hpp"

#include "tests/fs/matrix_disks.hpp"

namespace dynamicfs::test {
namespace {

journal::Policy parsed(const std::string& text) { return journal::Policy::parse(text).value(); }

}  // namespace

// Choices and the way of a run.

void MatrixRun::choose() {
  policy_ = kMatrixPolicies[seed_ % std::size(kMatrixPolicies)];
  moment_ = static_cast<Moment>(seed_ / std::size(kMatrixPolicies) %
                                static_cast<std::uint64_t>(Moment::kCount));
  in_force_ = {parsed(policy_)};
  const std::size_t width = in_force_[0].width();
  own_directory_ = policy_ == "single" && chance(50);
  std::size_t disks = std::max<std::size_t>(2, width) + draw(3);
  if (moment_ == Moment::kDrain) disks = std::max(disks, (own_directory_ ? 2 : width) + 1);
  const bool equal = chance(50);
  const std::uint64_t slots = 12 + draw(8);
  for (std::size_t i = 0; i < disks; ++i)
    sizes_.push_back(40 * kMiB + (slots + (equal ? 0 : draw(4))) * kSlotBytes);
  counts_.runs[fmt::format("{} {}", policy_, kMomentNames[static_cast<int>(moment_)])] += 1;
  say("{} on {} disks of {} slots, lost during {}{}", policy_, disks, slots + 8,
      kMomentNames[static_cast<int>(moment_)], own_directory_ ? ", safe/ is replica:2" : "");
}

void MatrixRun::run() {
  make_pool();
  fill();
  begin_moment();
  if (!stop_.done) act();
  end_in_time();
  mount_again();
  settle();
  verify("when all is whole");
  check_whole_now("when all is whole");
  check_scrub();
  check_slots("when all is whole");
  prove_redundancy();
  check_empty();
}

void MatrixRun::fill() {
  if (own_directory_) {
    need(pool_->mkdir("safe"), "mkdir");
    set_policy_of("safe", "replica:2");
  }
  const std::uint64_t files = 5 + draw(8);
  for (std::uint64_t i = 0; i < files; ++i) write(any_name());
  for (std::uint64_t i = draw(8); i > 0; --i) operate();
  need(pool_->run(pool_->fs().sync()), "sync");
  timeline_.sync();
  if (chance(40)) need(pool_->run(pool_->fs().checkpoint()), "checkpoint");
  // What is small is put under parity meanwhile.
  if (in_force_[0].kind == journal::Policy::Kind::kErasure && chance(30))
    wait(std::chrono::minutes{3});
  if (chance(30)) {
    need(pool_->unmount(), "unmount");
    device_.clear();
    live_ = false;
    if (!try_mount()) fail("refused with all disks");
  }
}

void MatrixRun::begin_moment() {
  if (moment_ == Moment::kRebuild && tolerance() > 0) {
    make_possible(1);
    const std::size_t disk = pick(candidates());
    say("disk {} is lost first", disk);
    if (chance(30)) {
      need(pool_->unmount(), "unmount");
      device_.clear();
      live_ = false;
      lose(disk);
      if (!try_mount()) fail("refused without one disk");
    } else {
      Doom doom{.disk = disk, .at = 0, .by_errors = chance(30)};
      strike(doom);
    }
    for (std::uint64_t i = draw(12); i > 0; --i) operate();
    for (int i = 0; i < 100 && !is_leaving(disk); ++i) wait(std::chrono::seconds{1});
    if (!is_leaving(disk)) fail("a lost disk is not made up for: " + state());
    wait(std::chrono::milliseconds{draw(400)});
  } else if (moment_ == Moment::kRebuild) {
    add_disk();
    need(pool_->run(pool_->fs().rebalance(true)), "rebalance");
  } else if (moment_ == Moment::kDrain) {
    const std::size_t disk = pick(candidates());
    std::uint64_t missing = 0;
    const Result<void> removed = pool_->run(pool_->fs().remove_disk(id(disk), &missing));
    need(removed, "remove a disk");
    say("disk {} is removed", disk);
  } else if (moment_ == Moment::kReencode) {
    std::vector<std::string> others;
    for (const char* const text :
         {"single", "replica:2", "replica:3", "ec:2+1", "ec:4+2", "ec:2+2"}) {
      if (text != policy_ && parsed(text).width() <= sizes_.size()) others.push_back(text);
    }
    const std::string to = others[draw(others.size())];
    say("policy becomes {}", to);
    in_force_.push_back(parsed(to));
    need(pool_->run(pool_->fs().set_policy(parsed(to))), "set the policy");
  }
}

// Until a disk is lost and the daemon has stopped.
void MatrixRun::act() {
  operations_ = 0;
  const std::vector<std::size_t> sound = candidates();
  const bool one_weak = !gone_.empty();
  // How many are lost now: none if one is missing when the power comes back, or comes back itself.
  std::size_t lost = chance(80) ? 1 : 0;
  if (tolerance() >= 2 && chance(40)) lost = 2 - (one_weak ? 1 : 0);
  if (tolerance() == 1 && chance(one_weak ? 40 : 15)) lost = one_weak ? 1 : 2;
  if (tolerance() == 1 && one_weak && lost > 0 && chance(40)) lost = 0;
  std::vector<std::size_t> victims = sound;
  std::shuffle(victims.begin(), victims.end(), random_);
  victims.resize(std::min(victims.size() - 1, lost));
  for (const std::size_t disk : victims) doom(disk, some_operations());
  stop_after(some_operations() + (chance(50) && !dooms_.empty() ? dooms_.back().at : 0));
  for (int i = 0; i < 60 && !stop_.done; ++i) {
    if (moment_ == Moment::kCheckpoint && (background_.empty() || background_.back().has_value()))
      spawn(keep(pool_->fs().checkpoint(), &background_.emplace_back()));
    const bool busy = moment_ == Moment::kWriting;
    if (busy || (moment_ != Moment::kIdle && chance(40))) operate();
    if (stop_.done) break;
    wait(moment_ == Moment::kIdle ? std::chrono::milliseconds{draw(3000)}
                                  : std::chrono::milliseconds{draw(busy ? 40 : 400)});
    if (chance(8)) verify("meanwhile");
  }
}

// What has not happened by now does.
void MatrixRun::end_in_time() {
  for (Doom& doom : dooms_) {
    if (stop_.done || doom.done) continue;
    strike(doom);
    for (std::uint64_t i = 1 + draw(4); i > 0; --i) operate();
    verify("after a disk was lost");
  }
  dooms_.clear();
  if (!stop_.done) {
    if (chance(30)) wait(std::chrono::milliseconds{draw(8000)});
    stop_.kill = chance(50);
    stop_now();
  }
}

// The power is back: with some of the disks that were lost, and perhaps without another.
void MatrixRun::mount_again() {
  leave();
  if (beyond() && chance(60)) mount_without_all();
  for (const std::size_t disk : std::set<std::size_t>(gone_)) {
    if (lacking_.contains(disk) && chance(60)) continue;
    say("disk {} is back", disk);
    gone_.erase(disk);
    if (lacking_.contains(disk)) {
      stale_.insert(disk);
      ++counts_.stale;
    }
  }
  if (gone_.size() + stale_.size() < tolerance() && chance(25)) {
    const std::vector<std::size_t> sound = candidates();
    if (sound.size() > 1) {
      const std::size_t disk = pick(sound);
      say("disk {} does not come back", disk);
      lose(disk);
      ++counts_.missing;
    }
  }
  if (beyond()) fail("the test itself has lost too much");
  if (!try_mount()) fail(fmt::format("refused, within what is tolerated: {}", pool_->problem.text));
  verify_recovered("after the stop");
  check_whole_now("after the stop");
  remove_what_is_gone();
}

// More is gone than is tolerated: refused, or what is read is right.
void MatrixRun::mount_without_all() {
  if (!try_mount()) {
    say("refused without them: {}", pool_->problem.text);
    return;
  }
  say("mounted without them");
  verify_recovered("with too few disks");
  if (chance(50)) {
    wait(std::chrono::milliseconds{draw(9000)});
    stop_.kill = chance(50);
    stop_now();
  } else if (chance(50)) {
    pool_->unmount().ignore("too much is lost");
  } else {
    stop_now();
  }
  leave();
}

// Until everything is as it should be again, with further stops and losses on the way.
void MatrixRun::settle() {
  std::uint64_t stops = draw(3);
  if (gone_.size() + stale_.size() < tolerance() && chance(30)) {
    const std::vector<std::size_t> sound = candidates();
    if (sound.size() > 1) doom(pick(sound), some_operations());
  }
  make_possible(0);
  const TimePoint end = pool_->executor.now() + std::chrono::hours{6};
  for (int round = 0; stop_.done || !is_whole(); ++round) {
    if (stop_.done) {
      --stops;
      dooms_.clear();
      mount_again();
    } else if (pool_->executor.now() > end) {
      fail("not whole after hours: " + state());
    }
    make_possible(0);
    if (stops > 0 && stop_.at == kNever && chance(30)) stop_after(some_operations());
    if (round < 40 && chance(50)) operate();
    // So that a disk that nobody has asked for anything since it was lost is missed.
    if (round == 45) pool_->fs().start_scrub().ignore("one is running");
    if (!stop_.done) wait(std::chrono::milliseconds{round < 40 ? draw(4000) : 5000});
  }
  stop_ = {};
  dooms_.clear();
  gone_.clear();
  stale_.clear();
  lacking_.clear();
  in_force_.erase(in_force_.begin(), in_force_.end() - 1);
}

// The end.

void MatrixRun::check_scrub() {
  need(pool_->run(pool_->fs().sync()), "sync");
  timeline_.sync();
  // One may be under way by itself.
  while (!pool_->fs().start_scrub().has_value()) wait(std::chrono::seconds{1});
  for (int i = 0; pool_->fs().scrub_report().state == fs::ScrubState::kRunning; ++i) {
    if (i > 100'000) fail("the scrub does not end");
    wait(std::chrono::milliseconds{10});
  }
  const fs::ScrubReport report = pool_->fs().scrub_report();
  const journal::ScrubCounts& counts = report.counts;
  if (report.state != fs::ScrubState::kFinished || report.errors != 0 || counts.copies_bad != 0 ||
      counts.copies_outdated != 0 || counts.copies_skipped != 0 || counts.blocks_lost != 0 ||
      counts.blocks_unreadable != 0) {
    fail(fmt::format(
        "the scrub finds: {} bad, {} outdated, {} skipped, {} lost, {} unreadable, {} errors",
        counts.copies_bad, counts.copies_outdated, counts.copies_skipped, counts.blocks_lost,
        counts.blocks_unreadable, report.errors));
  }
}

void MatrixRun::prove_redundancy() {
  const unsigned without = tolerance();
  for (int i = 0; without > 0 && i < 2; ++i) {
    std::vector<std::size_t> away = candidates();
    std::shuffle(away.begin(), away.end(), random_);
    away.resize(without);
    say("mounted without {}", fmt::join(away, ", "));
    need(pool_->unmount(), "unmount");
    device_.clear();
    const std::vector<std::size_t> left = strangers();
    std::vector<std::size_t> all = away;
    all.insert(all.end(), left.begin(), left.end());
    const Result<void> mounted = pool_->mount(all, true);
    if (!mounted.has_value())
      fail("refused without as many disks as are tolerated: " + pool_->problem.text);
    ++counts_.without;
    timeline_.check_now(read_tree(*pool_, false), "without as many disks as are tolerated");
    check_whole_now("without as many disks as are tolerated");
    if (pool_->fs().store().metrics().checksum_errors.sum() != 0)
      fail("a copy is wrong when others are away");
  }
  need(pool_->unmount(), "unmount");
  device_.clear();
  live_ = false;
  if (!try_mount()) fail("refused in the end");
  verify_recovered("in the end");
}

void MatrixRun::check_slots(const char* where) {
  std::string why;
  for (int i = 0; i < 20; ++i) {
    need(pool_->run(pool_->fs().journal().drain()), "drain");
    wait(std::chrono::seconds{6});
    why = wrong_slots(*pool_);
    if (why.empty()) return;
  }
  fail(fmt::format("{}: {}", where, why));
}

void MatrixRun::check_empty() {
  while (!timeline_.now().empty()) {
    const std::string path = timeline_.now().begin()->first;
    Tree next = timeline_.now();
    next.erase(path);
    step(path, next, [&] { return pool_->unlink(path); });
    if (stop_.done) return;
  }
  need(pool_->run(pool_->fs().checkpoint()), "checkpoint");
  // So that no chunk is open.
  need(pool_->unmount(), "unmount");
  device_.clear();
  live_ = false;
  if (!try_mount()) fail("refused when empty");
  verify_recovered("when empty");
  check_whole_now("when empty");
  std::string why;
  for (int i = 0; i < 20; ++i) {
    need(pool_->run(pool_->fs().journal().drain()), "drain");
    wait(std::chrono::seconds{6});
    why = wrong_slots(*pool_);
    const extent::SpaceReport space = pool_->fs().store().space(pool_->fs().pool().policy());
    if (pool_->fs().store().live_blocks() != 0 || !pool_->fs().store().chunks().empty())
      why += " there are chunks";
    if (space.pending_bytes != 0 || space.promised_bytes != 0) why += " something is pending";
    if (why.empty()) break;
  }
  if (!why.empty()) fail("when empty: " + why);
  const auto unlike = own_directory_ ? std::nullopt : unlike_a_new_pool(*pool_);
  if (unlike) fail("when empty: " + *unlike);
  need(pool_->unmount(), "unmount");
}

}  // namespace dynamicfs::test
