// Files that several processes write at once, a block at a time. Each block names its writer, file,
// place and version, so a torn, foreign or misplaced one is seen as it is read; and what each
// writer has begun and ended stands in memory that all share, so an old one is seen, too.
//
// A block that is read may be of any write that no other has replaced: not one that had ended
// before another began which had ended before the read began.
//
// Of three files one is accessed directly only, one through the page cache, one in every way. In
// the page cache Linux lets a read see a page that is half copied; there a torn block counts only
// if nobody was writing it, on the directly accessed file always.
//
// Killed daemon  Every block is whole, was written there, and is none that a write had replaced
//                whose fsync has returned.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/unique_fd.hpp"
#include "tests/fuzz/content_model.hpp"
#include "tests/fuzz/worker.hpp"

namespace dynamicfs::fuzz {

class SharedWorker final : public Worker {
 public:
  explicit SharedWorker(const Options& options);
  ~SharedWorker() override;

  void step(Rng& rng) override;
  void rest() override;
  void verify() override;
  void recover() override;

 private:
  static constexpr unsigned kFiles = 3;
  static constexpr unsigned kBlocks = 96;
  static constexpr unsigned kWorkersMax = 8;
  // The blocks lie on both sides of the edge of a window.
  static constexpr std::uint64_t kBase = kWindow - kBlocks / 2 * kBlock;
  enum Kind { kDirectOnly, kCached, kEveryWay };

  // What one worker has done to one block. Versions count from 1.
  struct Done {
    std::uint32_t version = 0;
    std::uint32_t zeros = 0;  // the newest version that was a hole
    std::uint64_t begin_ns = 0;
    std::uint64_t end_ns = 0;
  };
  struct Slot {
    std::atomic<std::uint32_t> changes;  // odd while `done` is being changed
    std::atomic<std::uint32_t> started;
    std::atomic<std::uint32_t> zeros_started;
    Done done;
    Done durable;  // what an fsync of this worker has covered
  };
  // What is stored through a mapping is stored word by word: meanwhile nobody else may write it.
  struct Board {
    std::atomic<int> writers[kFiles][kBlocks];  // -1: one, alone
    Slot slots[kFiles][kBlocks][kWorkersMax];
  };
  struct Header {
    std::uint64_t magic;
    std::uint32_t worker;
    std::uint32_t file;
    std::uint32_t block;
    std::uint32_t version;
  };
  using Before = std::array<Done, kWorkersMax>;
  struct Blocks {
    unsigned first = 0;
    unsigned count = 0;
  };

  static std::uint64_t now_ns();
  static void make_block(std::uint8_t* into, const Header& header);
  // Whether all of the block is what its header says.
  static bool is_whole(const std::uint8_t* block);
  static Header header_of(const std::uint8_t* block);

  // The right to write these blocks, alone or beside others; there is none if somebody else's is in
  // the way.
  class Turn {
   public:
    Turn(Board& board, unsigned file, Blocks blocks, bool alone);
    ~Turn();
    explicit operator bool() const { return taken_ == blocks_.count; }

   private:
    std::atomic<int>* writers_;
    const Blocks blocks_;
    const bool alone_;
    unsigned taken_ = 0;
  };

  Blocks draw(Rng& rng) const;
  void write(Rng& rng, unsigned file, Blocks blocks);
  void punch(unsigned file, Blocks blocks);
  void read(Rng& rng, unsigned file, Blocks blocks);
  void sync(unsigned file);
  void begin(unsigned file, Blocks blocks, bool zeros);
  void end(unsigned file, Blocks blocks, bool zeros, std::uint64_t began_ns);

  Before before(unsigned file, unsigned block) const;
  bool is_being_written(unsigned file, unsigned block, const Before& before) const;
  // Why this content may not be what a read that began at `read_ns` sees, or "".
  std::string judge(unsigned file, unsigned block, const std::uint8_t* content,
                    const Before& before, std::uint64_t read_ns) const;
  std::string judge_zeros(unsigned file, unsigned block, const Before& before,
                          std::uint64_t read_ns) const;
  std::string judge_after_kill(unsigned file, unsigned block, const std::uint8_t* content) const;
  [[noreturn]] void violated(unsigned file, unsigned block, const std::string& what) const;

  Slot& slot(unsigned file, unsigned block, unsigned worker) const {
    return board_->slots[file][block][worker];
  }
  std::string path(unsigned file) const;
  int open(unsigned file, bool direct);
  std::uint8_t* map(unsigned file);

  Board* board_ = nullptr;
  std::uint8_t* memory_ = nullptr;  // aligned, for all blocks of a file
  std::array<std::array<UniqueFd, 2>, kFiles> fds_;
  std::array<std::uint8_t*, kFiles> maps_{};
  std::array<OperationLog, kFiles> logs_;
};

}  // namespace dynamicfs::fuzz
