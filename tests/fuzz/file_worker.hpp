// Files of one process, in every way that their bytes can be read and changed, against their bytes
// in memory. After "An FSX file system exerciser" (Apple, 1991).
//
// Killed daemon  With `exact` only such operations are done as the daemon is handed one by one:
//                direct writes within a window, truncations, holes, renames. What comes back must
//                be all files as they were after one of these operations, or after the one that
//                was under way, and none earlier than the last one on any file whose fsync has
//                returned since (INV-5, INV-6).
//                Without it the page cache takes part, and each file is held against its
//                BlockHistory. There names stay as they are.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "base/unique_fd.hpp"
#include "tests/fuzz/block_history.hpp"
#include "tests/fuzz/content_model.hpp"
#include "tests/fuzz/worker.hpp"

namespace dynamicfs::fuzz {

class FileWorker final : public Worker {
 public:
  explicit FileWorker(const Options& options);
  ~FileWorker() override;

  void step(Rng& rng) override;
  void rest() override;
  void verify() override;
  void recover() override;

 private:
  static constexpr unsigned kFiles = 6;
  // Ways to have a file open; the mapping belongs to the first.
  enum Way { kBuffered, kDirect, kAppend, kWays };

  struct Handles {
    std::array<UniqueFd, kWays> fds;
    std::uint8_t* map = nullptr;
  };
  // A file that has lost its name and is still open.
  struct Orphan {
    UniqueFd fd;
    Bytes bytes;
  };
  struct Range {
    std::uint64_t at = 0;
    std::uint64_t length = 0;
    std::uint64_t end() const { return at + length; }
  };

  // Choices
  std::uint64_t draw_length(Rng& rng) const;
  std::uint64_t draw_place(Rng& rng, std::uint64_t limit) const;
  Range draw_write(Rng& rng, unsigned file, bool aligned) const;
  Range draw_read(Rng& rng, unsigned file) const;

  // Operations
  void step_exact(Rng& rng, unsigned file);
  void step_mixed(Rng& rng, unsigned file);
  void write(Rng& rng, unsigned file);
  void write_direct(Rng& rng, unsigned file);
  void write_mapped(Rng& rng, unsigned file);
  void truncate(Rng& rng, unsigned file);
  void allocate(Rng& rng, unsigned file);
  void copy(Rng& rng, unsigned file);
  void rename(Rng& rng, unsigned file);
  void remove(Rng& rng, unsigned file);
  void create(unsigned file);
  void probe_modes();
  void read(Rng& rng, unsigned file);
  void read_direct(Rng& rng, unsigned file);
  void read_mapped(Rng& rng, unsigned file);
  void seek(unsigned file);
  void sync(Rng& rng, unsigned file);
  void drop_cache(unsigned file);
  void check_orphan(Rng& rng);

  // Notes `change` before it is asked for; done() says that it has happened.
  void begin(Change change, const char* way);
  void done();
  void settle_all();
  // Makes the first of `since_`, up to number `count` of all, durable in `settled_`.
  void settle_until(std::uint64_t count);
  Range touched(const Change& change) const;

  // The file system
  std::string path(unsigned file) const;
  std::uint64_t base(unsigned file) const;
  int open(unsigned file, Way way);
  std::uint8_t* map(unsigned file);
  void close(unsigned file);
  void write_all(int fd, const Bytes& data, std::uint64_t at, const std::string& what);
  std::optional<Bytes> load(unsigned file);
  void check_read(unsigned file, const std::uint8_t* data, const Range& range, const char* way);
  [[noreturn]] void violated(unsigned file, const std::string& what) const;
  std::string place(unsigned file) const;

  Bytes& bytes(unsigned file) { return *model_.files[file]; }
  const Bytes& bytes(unsigned file) const { return *model_.files[file]; }

  ContentModel model_;
  std::array<Handles, kFiles> handles_;
  std::array<OperationLog, kFiles> logs_;
  Orphan orphan_;
  std::uint8_t* direct_memory_ = nullptr;  // aligned as O_DIRECT asks for
  int unsupported_modes_ = 0;              // a bit for each fallocate mode that is not to be had

  bool direct_to_a_byte_ = false;  // FUSE takes direct writes of any place and length

  // For the time after a kill.
  ContentModel settled_;                         // exact: what is durable
  std::vector<Change> since_;                    // exact: what was begun since
  std::uint64_t settled_count_ = 0;              // how many changes are in `settled_`
  std::array<std::uint64_t, kFiles> changed_{};  // exact: how many there were with a file's last
  std::array<BlockHistory, kFiles> histories_;
};

}  // namespace dynamicfs::fuzz
