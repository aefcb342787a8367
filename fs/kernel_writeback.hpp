// Has the kernel hand over what it keeps dirty of a file.
//
// What was written and not written back, only the kernel has, and it asks us where data and holes
// are (LSEEK) without a look at that. So before we call a range a hole it gives back the pages
// there, which writes those that are dirty. Nothing of worth is lost: of a hole it has zeros.
//
// Threads  One of its own: the kernel answers when it has had answers to WRITEs, and those are
//          received by readers. Every method may be called from any thread.
#pragma once

#include <condition_variable>
#include <coroutine>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

#include "base/executor.hpp"
#include "base/ids.hpp"

namespace dynamicfs::fs {

// Bytes [from, to) of a file.
struct ByteRange {
  std::uint64_t from = 0;
  std::uint64_t to = ~std::uint64_t{0};  // as far as there is anything
};

class KernelWriteback {
 public:
  // Does it for a range, and returns when it is done.
  using GiveBack = std::function<void(InodeId, ByteRange)>;

  KernelWriteback(Executor& executor, GiveBack give_back);
  // After stop().
  ~KernelWriteback();

  // Ends the thread when it has done what it is asked for by now. From then on nothing is waited for:
  // nobody may be left who receives the WRITEs.
  void stop();

  // Completes when the kernel has handed over what was dirty in `range`.
  auto flush(InodeId inode, ByteRange range) {
    struct Awaiter {
      KernelWriteback& writeback;
      Job job;
      bool await_ready() const noexcept { return false; }
      bool await_suspend(std::coroutine_handle<> handle) {
        job.waiting = handle;
        return writeback.add(job);
      }
      void await_resume() const noexcept {}
    };
    return Awaiter{*this, Job{inode, range, {}}};
  }

 private:
  struct Job {
    InodeId inode;
    ByteRange range;
    std::coroutine_handle<> waiting;
  };

  // False if nobody will do it any more.
  bool add(const Job& job);
  void run();

  Executor& executor_;
  const GiveBack give_back_;

  // std::mutex, not ours: the thread waits on the condition variable.
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Job> jobs_;
  bool stopping_ = false;

  std::thread thread_;
};

}  // namespace dynamicfs::fs
