// The requests of one round of a read: one for each piece, and another where the first disk keeps us
// waiting (hedged requests; Dean and Barroso, "The Tail at Scale", CACM 2013).
//
// A device cannot be made to give a request back. So the round owns the memory its requests read
// into and lives until the last of them has ended; the read goes on as soon as each piece has a good
// answer, and leaves the others behind. (A request that a failed disk keeps is left behind by the disk:
// IoRequest::memory.)
//
// Threads  overdue() from any thread; the rest by the coroutine that reads.
// Locks    A leaf, for each completion and each look.
#pragma once

#include <coroutine>
#include <cstddef>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "base/buffer.hpp"
#include "base/executor.hpp"
#include "base/mutex.hpp"
#include "scheduler/disk.hpp"

namespace dynamicfs::extent {

class ReadRound : public std::enable_shared_from_this<ReadRound> {
 public:
  // `memory`: what the first requests of all pieces read into parts of.
  ReadRound(Executor& executor, Buffer memory, std::size_t pieces);
  ReadRound(const ReadRound&) = delete;
  ReadRound& operator=(const ReadRound&) = delete;

  struct Question {
    scheduler::Disk* disk = nullptr;
    scheduler::IoClass io_class = scheduler::IoClass::kRead;
    std::uint64_t offset_bytes = 0;
    std::size_t place = 0;  // of the chunk: for the caller
  };
  // The first request of the next piece. To be called `pieces` times; then start() submits all.
  void add(const Question& question, std::span<std::byte> into);
  void start();
  // Asks for a piece once more, into memory of its own, unless it is decided by now.
  void ask_also(std::size_t piece, const Question& question, std::size_t size_bytes);

  // Resumes with true when every piece is decided: it has a good answer, or all it asked have failed.
  // With false when overdue() was called.
  auto wait() {
    struct Awaiter {
      ReadRound& round;
      bool await_ready() const noexcept { return false; }
      bool await_suspend(std::coroutine_handle<> handle) { return round.suspend(handle); }
      bool await_resume() const noexcept { return round.woken(); }
    };
    return Awaiter{*this};
  }
  // Its time is over; does nothing if all is decided.
  void overdue();
  bool is_decided() const;

  // What has been asked for a piece so far.
  struct Asked {
    std::size_t place = 0;
    scheduler::Disk* disk = nullptr;
    bool ended = false;
    Error error;                          // if it has ended
    std::span<const std::byte> received;  // if it has ended well
  };
  // Pieces that are not decided, and all that was asked for each.
  std::vector<std::size_t> undecided() const;
  std::vector<Asked> asked(std::size_t piece) const;
  // After wait() was true: no device can write to the memory any more, so it can be had back. A disk
  // that has failed answers for one that still may.
  bool memory_is_free() const;
  Buffer take_memory() { return std::move(memory_); }

 private:
  struct Attempt {
    ReadRound* round = nullptr;
    Question question;
    std::size_t piece = 0;
    scheduler::IoRequest request;
    bool ended = false;
    Buffer own_memory;
  };
  struct Piece {
    std::size_t open = 0;  // requests that have not ended
    bool decided = false;
  };

  static void completed(scheduler::IoRequest& request);
  void ended(Attempt& attempt);
  void prepare(Attempt& attempt, const Question& question, std::size_t piece,
               std::span<std::byte> into);
  void decide(Piece& piece) DFS_REQUIRES(mutex_);
  bool suspend(std::coroutine_handle<> handle);
  bool woken();

  Executor& executor_;
  Buffer memory_;
  std::vector<Attempt> first_;                     // by piece; never grows once started
  std::vector<std::unique_ptr<Attempt>> further_;  // written by the reading coroutine alone

  mutable Mutex mutex_;
  std::vector<Piece> pieces_ DFS_GUARDED_BY(mutex_);
  std::size_t undecided_ DFS_GUARDED_BY(mutex_) = 0;
  bool overdue_ DFS_GUARDED_BY(mutex_) = false;
  std::coroutine_handle<> waiting_ DFS_GUARDED_BY(mutex_);
};

}  // namespace dynamicfs::extent
