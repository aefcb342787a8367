// Every crash state of short workloads: see crash_states.hpp.
#include "tests/fs/crash_states.hpp"

#include "base/mutant.hpp"
#include "tests/support/seed.hpp"

namespace dynamicfs::test {
namespace {

using Type = Model::Node::Type;
using fs::FallocateMode;
using fs::RenameMode;

// A run in the making: a pool under way beside its model.
struct Run {
  Run(std::uint64_t seed, SimPoolOptions options) : pool(seed, options) {
    recording.options = std::move(options);
    recording.seed = seed;
    pool.wrap = [this](std::unique_ptr<scheduler::SimulatedDisk> disk, std::size_t index) {
      return std::make_unique<RecordingDisk>(std::move(disk), index, recording.trace);
    };
  }

  // From here on everything counts.
  void record() {
    REQUIRE(pool.run(pool.fs().sync()).has_value());
    recording.before.clear();
    for (std::size_t i = 0; i < pool.media.size(); ++i) {
      // A power cut now would lose nothing: what has been written is flushed.
      pool.run(flush(pool.disks[i]));
      recording.before.push_back(pool.media[i]->clone());
    }
    recording.trace.forget();
    recording.trees = {model.dump()};
    recording.begun = {{0, 0}};
    recording.durable = {{0, 0}};
    count_anew(*model.root);
  }
  // All operations so far are number 0.
  static void count_anew(Model::Node& node) {
    node.changed_by = 0;
    for (const auto& [name, child] : node.children) count_anew(*child);
  }
  static Task<int> flush(scheduler::Disk* disk) {
    const auto done = co_await scheduler::flush(*disk, scheduler::IoClass::kCritical);
    DFS_ASSERT(done.has_value());
    co_return 0;
  }

  std::size_t operations() const { return recording.trees.size() - 1; }
  void begin() { recording.begun.push_back({recording.trace.now(), operations() + 1}); }
  void end() { recording.trees.push_back(model.dump()); }
  void promise(std::size_t up_to) { recording.durable.push_back({recording.trace.now(), up_to}); }

  Recording recording;  // outlives the pool, whose disks write to it to the end
  SimPool pool;
  Model model;
};

// An operation on a small tree: a file of three blocks and a bit, a directory with a small file,
// an empty directory, a symlink, a second name.
struct Operation {
  std::string name;
  std::function<void(Run&)> apply;
};

void build_tree(Run& run) {
  const std::string text(3 * kBlockBytes + 500, 'a');
  const auto both = [](Result<void> real, Result<void> expected) {
    DFS_ASSERT(real.has_value() && expected.has_value());
  };
  SimPool& pool = run.pool;
  Model& model = run.model;
  both(pool.create("a"), model.make("a", Type::kFile, "", 0644));
  both(pool.write("a", 0, text), model.write("a", 0, text));
  both(pool.mkdir("d"), model.make("d", Type::kDirectory, "", 0755));
  both(pool.create("d/b"), model.make("d/b", Type::kFile, "", 0644));
  both(pool.write("d/b", 0, "small"), model.write("d/b", 0, "small"));
  both(pool.mkdir("e"), model.make("e", Type::kDirectory, "", 0755));
  both(pool.symlink("s", "a"), model.make("s", Type::kSymlink, "a", 0777));
  both(pool.link("d/b", "h"), model.link("d/b", "h"));
}

std::string parent(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  return slash == std::string::npos ? "" : path.substr(0, slash);
}

// Changes what `paths` name, before or behind it.
Operation change(std::string name, std::vector<std::string> paths,
                 std::function<Result<void>(SimPool&)> real,
                 std::function<Result<void>(Model&)> expected) {
  return {name, [=](Run& run) {
            run.begin();
            std::vector<Model::NodePtr> changed;
            const auto look = [&] {
              for (const std::string& path : paths) {
                const auto node = run.model.resolve(path);
                if (node.has_value()) changed.push_back(*node);
              }
            };
            look();
            const Result<void> done = real(run.pool);
            const Result<void> wanted = expected(run.model);
            DFS_ASSERT(done.has_value() == wanted.has_value());
            look();
            const bool nothing = run.model.dump() == run.recording.trees.back();
            if (done.has_value() && !nothing) {
              for (const Model::NodePtr& node : changed) node->changed_by = run.operations() + 1;
            }
            run.end();
          }};
}

Operation fsync_of(std::string path) {
  return {"fsync " + path, [path](Run& run) {
            run.begin();
            const auto node = run.model.resolve(path);
            const Result<void> done = run.pool.fsync(path);
            DFS_ASSERT(done.has_value() == node.has_value());
            if (node.has_value()) run.promise((*node)->changed_by);
            run.end();
          }};
}

Task<void> promise_when_done(Run* run, Task<Result<void>> task, std::size_t operations) {
  const Result<void> done = co_await std::move(task);
  if (done.has_value()) run->promise(operations);
}

// A file without a name that is written to; then, `named`, it gets this one.
Operation unnamed_file(std::string named) {
  return {"unnamed file, " + (named.empty() ? "given up" : "linked as " + named),
          [named](Run& run) {
            const std::string text(5000, 'u');
            fs::Filesystem& fs = run.pool.fs();
            run.begin();
            const auto made = run.pool.run(fs.tmpfile(kRootInode, S_IFREG | 0644, {}));
            DFS_ASSERT(made.has_value());
            const auto written = run.pool.run(SimPool::write_task(&fs, made->inode, 0, text));
            DFS_ASSERT(written.has_value());
            run.end();
            if (!named.empty()) {
              run.begin();
              const auto at = run.pool.parent_of(named);
              const auto linked = at.has_value()
                                      ? run.pool.run(fs.link(made->inode, at->first, at->second))
                                      : Result<fs::Attributes>{at.error()};
              const auto wanted = run.model.make(named, Type::kFile, text, 0644);
              DFS_ASSERT(linked.has_value() == wanted.has_value());
              if (linked.has_value()) {
                fs.forget(made->inode, 1);
                for (const std::string& path : {named, parent(named)})
                  (*run.model.resolve(path))->changed_by = run.operations() + 1;
              }
              run.end();
            }
            fs.forget(made->inode, 1);
          }};
}

// `begins`: what follows does not wait for it.
Operation everything(std::string name, bool begins,
                     std::function<Task<Result<void>>(fs::Filesystem&)> task) {
  return {
      name, [=](Run& run) {
        run.begin();
        spawn(promise_when_done(&run, task(run.pool.fs()), run.operations()));
        if (begins) {
          run.pool.executor.run_for(std::chrono::microseconds{run.pool.executor.random() % 400});
        } else {
          run.pool.executor.run_for(std::chrono::milliseconds{50});
        }
        run.end();
      }};
}

const std::vector<Operation>& operations() {
  static const std::vector<Operation> all = [] {
    const auto write = [](std::string path, std::uint64_t at, std::size_t size, char letter) {
      const std::string text(size, letter);
      return change(
          fmt::format("write {} at {} size {}", path, at, size), {path},
          [=](SimPool& pool) { return pool.write(path, at, text); },
          [=](Model& model) { return model.write(path, at, text); });
    };
    const auto truncate = [](std::string path, std::uint64_t size) {
      return change(
          fmt::format("truncate {} to {}", path, size), {path},
          [=](SimPool& pool) { return pool.truncate(path, size); },
          [=](Model& model) { return model.truncate(path, size); });
    };
    const auto rename = [](std::string a, std::string b, RenameMode mode) {
      return change(
          fmt::format("rename {} {} {}", a, b, static_cast<int>(mode)),
          {parent(a), parent(b), a, b}, [=](SimPool& pool) { return pool.rename(a, b, mode); },
          [=](Model& model) { return model.rename(a, b, mode); });
    };
    const auto whiteout = [](std::string a, std::string b) {
      return change(
          fmt::format("whiteout of {} {}", a, b), {parent(a), parent(b), a, b},
          [=](SimPool& pool) { return pool.rename(a, b, RenameMode::kReplace, true); },
          [=](Model& model) { return model.rename(a, b, RenameMode::kReplace, true); });
    };
    const auto fallocate = [](std::string path, FallocateMode mode, std::uint64_t at,
                              std::uint64_t size) {
      return change(
          fmt::format("fallocate {} {} at {} size {}", path, static_cast<int>(mode), at, size),
          {path},
          [=](SimPool& pool) -> Result<void> {
            const InodeId inode = TRY(pool.resolve(path));
            return pool.run(pool.fs().fallocate(inode, mode, at, size));
          },
          [=](Model& model) { return model.fallocate(path, mode, at, size); });
    };
    const auto make = [](std::string path, Type type) {
      return change(
          fmt::format("make {} {}", static_cast<int>(type), path), {parent(path), path},
          [=](SimPool& pool) -> Result<void> {
            switch (type) {
              case Type::kFile: return pool.create(path);
              case Type::kDirectory: return pool.mkdir(path);
              case Type::kSymlink: return pool.symlink(path, "to");
              case Type::kWhiteout: break;
            }
            return {};
          },
          [=](Model& model) {
            const bool link = type == Type::kSymlink;
            const std::uint32_t mode = link ? 0777 : type == Type::kFile ? 0644 : 0755;
            return model.make(path, type, link ? "to" : "", mode);
          });
    };
    const auto clone = [](std::string from, std::uint64_t at, std::string to, std::uint64_t to_at,
                          std::uint64_t size) {
      return change(
          fmt::format("clone {} at {} to {} at {} size {}", from, at, to, to_at, size), {to},
          [=](SimPool& pool) { return pool.copy_range(from, at, to, to_at, size); },
          [=](Model& model) { return model.copy_range(from, at, to, to_at, size); });
    };
    std::vector<Operation> out{
        make("c", Type::kFile),
        make("e/c", Type::kFile),
        make("e/n", Type::kDirectory),
        make("y", Type::kSymlink),
        write("a", 0, kBlockBytes, 'w'),
        write("a", 3 * kBlockBytes + 500, 3000, 'x'),
        write("a", 100, 6000, 'o'),
        write("a", 2 * kBlockBytes, 10 * kBlockBytes, 'r'),  // a few rows, under erasure coding
        write("d/b", 2, 10, 'p'),
        truncate("a", 1000),
        truncate("a", 30'000),
        rename("a", "d/b", RenameMode::kReplace),
        rename("h", "a", RenameMode::kReplace),
        rename("a", "h", RenameMode::kExchange),
        rename("d", "e", RenameMode::kReplace),
        whiteout("a", "e/w"),
        whiteout("d", "e"),
        unnamed_file("e/u"),
        unnamed_file(""),
        fallocate("a", FallocateMode::kPunchHole, 2000, 7000),
        fallocate("a", FallocateMode::kAllocate, 20'000, 9000),
        clone("a", 0, "d/b", 0, 4 * kBlockBytes),
        clone("a", kBlockBytes, "a", 5 * kBlockBytes, 2 * kBlockBytes),
        fsync_of("a"),
        fsync_of("d/b"),
        fsync_of("d"),
        fsync_of(""),
        everything("sync", false, [](fs::Filesystem& fs) { return fs.sync(); }),
        everything("sync begins", true, [](fs::Filesystem& fs) { return fs.sync(); }),
        everything("checkpoint", false, [](fs::Filesystem& fs) { return fs.checkpoint(); }),
        everything("checkpoint begins", true, [](fs::Filesystem& fs) { return fs.checkpoint(); }),
    };
    out.push_back(change(
        "link a e/l", {"a", "e"}, [](SimPool& pool) { return pool.link("a", "e/l"); },
        [](Model& model) { return model.link("a", "e/l"); }));
    for (const std::string path : {"a", "d/b"}) {
      out.push_back(change(
          "unlink " + path, {path, parent(path)},
          [path](SimPool& pool) { return pool.unlink(path); },
          [path](Model& model) { return model.unlink(path); }));
    }
    out.push_back(change(
        "setxattr a", {"a"},
        [](SimPool& pool) -> Result<void> {
          const InodeId inode = TRY(pool.resolve("a"));
          return pool.run(pool.fs().setxattr(inode, "user.test", "v", fs::XattrMode::kEither));
        },
        [](Model& model) -> Result<void> {
          TRY(model.resolve("a"))->xattrs["user.test"] = "v";
          return {};
        }));
    return out;
  }();
  return all;
}

// The first whose name begins so.
const Operation& named(std::string_view name) {
  return *std::ranges::find_if(operations(), [name](const Operation& operation) {
    return std::string_view{operation.name}.starts_with(name);
  });
}

// Of copies, or, for 5, three disks under ec:2+1.
SimPoolOptions disks(std::size_t count) {
  SimPoolOptions options;
  if (count == 5) {
    options.disk_bytes.assign(3, 64 * kMiB);
    options.policy = {.kind = journal::Policy::Kind::kErasure, .copies_or_data = 2, .parity = 1};
    return options;
  }
  options.disk_bytes.assign(count, 40 * kMiB);
  options.policy.copies_or_data = count == 1 ? 1 : 2;
  return options;
}

// The disks with the small tree on them, unmounted in order: made once for each number of disks.
void start(Run& run) {
  run.pool.format();
  REQUIRE(run.pool.mount().has_value());
  build_tree(run);
}

Recording record(std::size_t disk_count, std::uint64_t seed,
                 const std::vector<const Operation*>& sequence) {
  Run run(seed, disks(disk_count));
  start(run);
  run.record();
  run.recording.text = fmt::format("{} disks", disk_count);
  for (const Operation* const operation : sequence) {
    run.recording.text += ", " + operation->name;
    operation->apply(run);
  }
  // In the end everything becomes durable by itself, and the log is closed.
  const std::size_t all = run.operations();
  run.pool.executor.run_for(std::chrono::seconds{12});
  run.promise(all);
  return std::move(run.recording);
}

// A file that is rewritten again and again where there is little room: blocks are used again.
Recording churn(std::uint64_t seed) {
  std::mt19937_64 random(seed);
  Run run(seed, disks(1 + seed % 2));
  start(run);
  run.record();
  run.recording.text = "churn";
  const auto write = [&](char letter) {
    const std::uint64_t at = random() % 4 * 64 * kBlockBytes;
    const std::string text(256 * kBlockBytes, letter);
    run.begin();
    (*run.model.resolve("a"))->changed_by = run.operations() + 1;
    run.pool.write("a", at, text).ignore("there is room");
    run.model.write("a", at, text).ignore("it is there");
    run.end();
  };
  for (int i = 0; i < 14; ++i) {
    write(static_cast<char>('A' + i));
    if (random() % 3 == 0) fsync_of("a").apply(run);
  }
  return std::move(run.recording);
}

// Records that fill the log several times, beside checkpoints that begin when it is nearly full.
Recording fill_log(std::uint64_t seed) {
  std::mt19937_64 random(seed);
  SimPoolOptions options = disks(1 + seed % 2);
  options.checkpoint_log_percent = 65;  // a batch must fit all the same
  Run run(seed, options);
  start(run);
  // Near the end of the log first: what is recorded shall be about that.
  const auto step = [&](int i) {
    const std::string value(60'000 + random() % 5000, static_cast<char>('a' + i % 26));
    return change(
        "setxattr a", {"a"},
        [value](SimPool& pool) -> Result<void> {
          const InodeId inode = TRY(pool.resolve("a"));
          return pool.run(pool.fs().setxattr(inode, "user.test", value, fs::XattrMode::kEither));
        },
        [value](Model& model) -> Result<void> {
          TRY(model.resolve("a"))->xattrs["user.test"] = value;
          return {};
        });
  };
  const auto sync = everything("sync", true, [](fs::Filesystem& fs) { return fs.sync(); });
  run.record();
  const std::uint64_t log_bytes = journal::kJournalBytesMin;
  int i = 0;
  for (std::uint64_t bytes = 0; bytes < log_bytes * 60 / 100; bytes += 65'000, ++i) {
    step(i).apply(run);
    if (i % 8 == 0) fsync_of("a").apply(run);
  }
  run.record();
  run.recording.text = "fill the log";
  // More than there is room for, at once: commits wait for the checkpoint.
  for (const int end = i + 60; i < end; ++i) step(i).apply(run);
  sync.apply(run);
  run.pool.executor.run_for(std::chrono::seconds{1});
  return std::move(run.recording);
}

// A run for every checkpoint, so that they are merged, and slots of those that are replaced used again;
// what is clean leaves memory again and again.
Recording merge_runs(std::uint64_t seed) {
  std::mt19937_64 random(seed);
  SimPoolOptions options = disks(1 + seed % 3);
  for (std::uint64_t& bytes : options.disk_bytes) bytes = 80 * kMiB;
  options.small_run_bytes = 0;
  Run run(seed, options);
  start(run);
  const std::vector<Operation>& all = operations();
  const auto round = [&] {
    for (int i = 0; i < 3; ++i) {
      all[random() % all.size()].apply(run);
      if (random() % 2 == 0) run.pool.fs().evict();
    }
    named("checkpoint").apply(run);
    run.pool.fs().evict();
  };
  run.record();
  for (int i = 0; i < 3; ++i) round();
  // The next one is the fourth.
  run.record();
  run.recording.text = "merge runs";
  const std::uint64_t before = run.pool.fs().metrics().run_merges.sum();
  for (int i = 0; i < 4; ++i) round();
  REQUIRE(run.pool.fs().metrics().run_merges.sum() > before);
  return std::move(run.recording);
}

// Data is put together while it is written to, synced, cut and read.
Recording compact(std::uint64_t seed) {
  std::mt19937_64 random(seed);
  Run run(seed, disks(1 + seed % 3));
  start(run);
  const auto write = [&](std::uint64_t block) {
    const std::string text(kBlockBytes, static_cast<char>('A' + random() % 26));
    change(
        "write a block of a", {"a"},
        [=](SimPool& pool) { return pool.write("a", block * kBlockBytes, text); },
        [=](Model& model) { return model.write("a", block * kBlockBytes, text); })
        .apply(run);
  };
  run.record();
  // No two neighbours lie together.
  for (std::uint64_t i = 0; i < 80; ++i) write(i * 37 % 80);
  run.record();
  run.recording.text = "compact";
  const auto begins = everything("", true, [](fs::Filesystem& fs) { return fs.compact(); });
  const std::uint64_t before = run.pool.fs().metrics().compaction_bytes.sum();
  for (int i = 0; i < 4; ++i) {
    begins.apply(run);
    run.pool.executor.run_for(std::chrono::microseconds{random() % 20'000});
    for (std::uint64_t k = random() % 3; k > 0; --k) write(random() % 80);
    if (random() % 2 == 0) fsync_of("a").apply(run);
    if (random() % 4 == 0) named("checkpoint").apply(run);
    run.pool.executor.run_for(std::chrono::microseconds{random() % 30'000});
    for (std::uint64_t k = random() % 3; k > 0; --k) write(random() % 80);
  }
  // Once undisturbed at least.
  run.pool.executor.run_for(std::chrono::seconds{1});
  begins.apply(run);
  run.pool.executor.run_for(std::chrono::seconds{12});
  run.promise(run.operations());
  REQUIRE(run.pool.fs().metrics().compaction_bytes.sum() > before);
  return std::move(run.recording);
}

// Files that share blocks: one is copied to another again and again, in whole or in part, both are
// written to, cut and removed, and what was freed is used again.
Recording clones(std::uint64_t seed) {
  std::mt19937_64 random(seed);
  Run run(seed, disks(1 + seed % 3));
  start(run);
  run.record();
  const std::vector<std::string> names{"a", "c", "e/c"};
  named("make 0 c").apply(run);
  named("make 0 e/c").apply(run);
  const auto step = [&] {
    const std::string& from = names[random() % names.size()];
    const std::string& to = names[random() % names.size()];
    const std::uint64_t at = random() % 300 * kBlockBytes;
    switch (random() % 8) {
      case 0:
      case 1:
      case 2: {
        const std::uint64_t source = random() % 300 * kBlockBytes;
        const std::uint64_t size = (1 + random() % 40) * kBlockBytes;
        change(
            fmt::format("clone {} to {}", from, to), {to},
            [=](SimPool& pool) { return pool.copy_range(from, source, to, at, size); },
            [=](Model& model) { return model.copy_range(from, source, to, at, size); })
            .apply(run);
        break;
      }
      case 3:
      case 4:
      case 5: {
        const std::string text((1 + random() % 30) * kBlockBytes,
                               static_cast<char>('A' + random() % 26));
        change(
            fmt::format("write {}", to), {to},
            [=](SimPool& pool) { return pool.write(to, at, text); },
            [=](Model& model) { return model.write(to, at, text); })
            .apply(run);
        break;
      }
      case 6:
        change(
            fmt::format("truncate {}", to), {to},
            [=](SimPool& pool) { return pool.truncate(to, at); },
            [=](Model& model) { return model.truncate(to, at); })
            .apply(run);
        break;
      default:
        if (random() % 3 == 0) named("checkpoint").apply(run);
        fsync_of(to).apply(run);
    }
  };
  // Something to share, wherever a clone looks.
  const std::string all(310 * kBlockBytes, 'z');
  change(
      "write all of a", {"a"}, [=](SimPool& pool) { return pool.write("a", 0, all); },
      [=](Model& model) { return model.write("a", 0, all); })
      .apply(run);
  for (int i = 0; i < 10; ++i) step();
  run.record();
  run.recording.text = "clones";
  const std::uint64_t before = run.pool.fs().metrics().cloned_bytes.sum();
  for (int i = 0; i < 24; ++i) step();
  // Data that no flush has covered, and at once a copy of it, up to an end within a block.
  const std::string text(9 * kBlockBytes + 123, static_cast<char>('a' + random() % 26));
  for (const std::string name : {"a", "c"}) {
    change(
        "truncate " + name, {name}, [=](SimPool& pool) { return pool.truncate(name, 0); },
        [=](Model& model) { return model.truncate(name, 0); })
        .apply(run);
  }
  change(
      "write a", {"a"}, [=](SimPool& pool) { return pool.write("a", 0, text); },
      [=](Model& model) { return model.write("a", 0, text); })
      .apply(run);
  change(
      "clone a to c", {"c"},
      [=](SimPool& pool) { return pool.copy_range("a", 0, "c", 0, text.size()); },
      [=](Model& model) { return model.copy_range("a", 0, "c", 0, text.size()); })
      .apply(run);
  fsync_of("c").apply(run);
  REQUIRE(run.pool.fs().metrics().cloned_bytes.sum() > before);
  return std::move(run.recording);
}

// Rows of parity groups, one after the other.
Recording rows(std::uint64_t seed) {
  return record(5, seed, {&named("write a at 8192"), &named("fsync a")});
}

// The thread sanitizer finds nothing in a simulation, and all sanitizers are slow.
#if defined(__SANITIZE_THREAD__)
constexpr std::uint64_t kCrashStates = 1'000;
#elif defined(__SANITIZE_ADDRESS__)
constexpr std::uint64_t kCrashStates = 1'000;
#else
constexpr std::uint64_t kCrashStates = 100'000;
#endif

}  // namespace

// Runs until enough states have been tried, or one is bad and that is what is looked for.
struct Campaign {
  using Work = Recording (*)(std::uint64_t seed);

  Campaign(std::uint64_t first_seed, std::uint64_t states, bool until_bad)
      : seed(first_seed),
        wanted(states),
        stop_at_bad(until_bad),
        crash(first_seed, until_bad ? 20 : 200) {}

  bool enough() const {
    return crash.counts.states >= wanted || (stop_at_bad && crash.counts.bad > 0);
  }
  // What is rare takes work made for it.
  void special() {
    for (std::uint64_t i = 0; i < 8 && !enough(); ++i) {
      crash.try_all(record(1 + i % 5, seed + i, {&named("write a at 0"), &named("checkpoint")}));
      crash.try_all(record(1 + i % 5, seed + i, {&named("write a at 0"), &named("fsync a")}));
    }
    for (const Work work : {churn, fill_log, merge_runs, compact, clones, rows}) eight_of(work);
  }
  void eight_of(Work work) {
    for (std::uint64_t i = 0; i < 8 && !enough(); ++i) crash.try_all(work(seed + i));
  }
  void one_and_two() {
    const std::vector<Operation>& all = operations();
    for (std::size_t i = 0; i < all.size() && !enough(); ++i) {
      crash.try_all(record(1 + i % 5, seed, {&all[i]}));
      for (std::size_t k = 0; k < all.size() && !enough(); ++k) {
        crash.try_all(record(1 + (i + k) % 5, seed, {&all[i], &all[k]}));
      }
    }
  }
  // Threes and eights of the same operations.
  void longer() {
    const std::vector<Operation>& all = operations();
    std::mt19937_64 random(seed);
    for (std::uint64_t round = 0; !enough(); ++round) {
      std::vector<const Operation*> sequence(round % 2 == 0 ? 3 : 8);
      for (const Operation*& operation : sequence) operation = &all[random() % all.size()];
      crash.try_all(record(1 + random() % 5, seed + round, sequence));
      if (round % 64 == 63) special();
    }
  }

  std::uint64_t seed;
  std::uint64_t wanted;
  bool stop_at_bad;
  CrashStates crash;
};

#if defined(DYNAMICFS_MUTANTS) && !defined(__SANITIZE_THREAD__)
// Where to look first for a defect that shows late elsewhere, after thousands of states.
struct Telling {
  Mutant mutant;
  Campaign::Work work;
};
constexpr Telling kTelling[] = {{Mutant::kReuseEarly, churn},    {Mutant::kKeepTail, churn},
                                {Mutant::kAcceptTorn, fill_log}, {Mutant::kTrimEarly, fill_log},
                                {Mutant::kForgetShared, clones}, {Mutant::kKeepShared, clones},
                                {Mutant::kParityBeside, rows}};
#endif

TEST_SUITE("crash states") {
  TEST_CASE("whatever a power cut leaves of a run is a state that it went through") {
    const std::uint64_t seed = seed_from_environment(1);
    const char* const wanted = std::getenv("DYNAMICFS_CRASH_STATES");
    const std::uint64_t states =
        wanted != nullptr ? std::strtoull(wanted, nullptr, 0) : kCrashStates;
    const auto begun = std::chrono::steady_clock::now();
    set_log_level(LogLevel{static_cast<int>(LogLevel::kError) + 1});  // thousands of disks fail
    Campaign campaign(seed, states, false);
    campaign.special();
    campaign.one_and_two();
    campaign.longer();
    const CrashCounts& counts = campaign.crash.counts;
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begun;
    MESSAGE(counts.states, " crash states of ", counts.sequences, " sequences, ", counts.recovering,
            " of them during recovery, ", counts.degraded, " without one of the disks; ",
            static_cast<std::uint64_t>(static_cast<double>(counts.states) / took.count()),
            " per second, seed ", seed);
    INFO(counts.first_bad);
    CHECK(counts.bad == 0);
  }

#if defined(DYNAMICFS_MUTANTS) && !defined(__SANITIZE_THREAD__)
  TEST_CASE("each defect that is made on purpose is noticed") {
    const std::uint64_t seed = seed_from_environment(1);
    for (std::uint8_t i = 1; i < static_cast<std::uint8_t>(Mutant::kCount); ++i) {
      const std::string name = kMutantNames[i];
      CAPTURE(name);
      Campaign campaign(seed, 20'000, true);
      active_mutant = Mutant{i};
      for (const Telling& telling : kTelling) {
        if (telling.mutant == active_mutant) campaign.eight_of(telling.work);
      }
      campaign.special();
      campaign.one_and_two();
      active_mutant = Mutant::kNone;
      MESSAGE(name, ": noticed after ", campaign.crash.counts.states, " states");
      CHECK(campaign.crash.counts.bad > 0);
    }
  }
#endif
}

}  // namespace dynamicfs::test
