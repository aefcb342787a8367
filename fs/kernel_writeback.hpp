// Has the kernel hand over what it keeps dirty of a file.
//
// What was written and not written back, only the kernel has, and it asks us where data and holes
// are (LSEEK) without a look at that. So before we call a range a hole we sync it, through the mount, like
// any program: the file is opened by its handle, which takes CAP_DAC_READ_SEARCH.
//
// The thread that does so waits in the kernel for WRITEs that this process is to answer. If the process is
// killed meanwhile, the thread must not be what keeps /dev/fuse open, or it would wait for ever: so it
// has a table of file descriptors of its own, without that one.
//
// Closing a file waits for the lock that the kernel holds on it throughout an LSEEK, perhaps of somebody who
// waits for that thread in turn. So files are closed by a second one.
//
// Threads  Two of its own, see above: nothing that uses a descriptor may run on them, so no coroutine does.
//          Every method may be called from any thread.
#pragma once

#include <condition_variable>
#include <coroutine>
#include <cstdint>
#include <deque>
#include <mutex>
#include <string>
#include <thread>

#include "base/executor.hpp"
#include "base/ids.hpp"
#include "base/metrics.hpp"
#include "base/unique_fd.hpp"

namespace dynamicfs::fs {

// Bytes [from, to) of a file.
struct ByteRange {
  std::uint64_t from = 0;
  std::uint64_t to = ~std::uint64_t{0};  // as far as there is anything
};

class KernelWriteback {
 public:
  // `device`: "0:52", of the file system that is mounted there.
  KernelWriteback(Executor& executor, std::string mountpoint, std::string device);
  // After stop().
  ~KernelWriteback();

  // Ends the thread when it has done what it is asked for by now. From then on nothing is waited for:
  // nobody may be left who receives the WRITEs.
  void stop();

  // True when the kernel has handed over what was dirty in `range`; false: that cannot be done.
  auto flush(InodeId inode, ByteRange range) {
    struct Awaiter {
      KernelWriteback& writeback;
      Job job;
      bool done = false;
      bool await_ready() const noexcept { return false; }
      bool await_suspend(std::coroutine_handle<> handle) {
        job.waiting = handle;
        job.done = &done;
        return writeback.add(job);
      }
      bool await_resume() const noexcept {
        if (done) writeback.flushes_.add();
        return done;
      }
    };
    return Awaiter{*this, Job{inode, range, {}, nullptr}};
  }
  // How often that was done.
  std::uint64_t flushes() const { return flushes_.sum(); }

 private:
  struct Job {
    InodeId inode;
    ByteRange range;
    std::coroutine_handle<> waiting;
    bool* done = nullptr;
  };

  // False if nobody will do it any more.
  bool add(const Job& job);
  void run();
  void close_soon(UniqueFd file);
  void close_files();
  // The file, open still, or nothing.
  UniqueFd sync(const Job& job) const;

  Executor& executor_;
  const std::string mountpoint_;
  const std::string device_;
  Counter flushes_;

  // std::mutex, not ours: the thread waits on the condition variable.
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Job> jobs_;
  std::deque<UniqueFd> to_close_;
  bool stopping_ = false;
  bool closing_ = false;  // nothing will be added to to_close_ any more

  std::thread thread_;
};

}  // namespace dynamicfs::fs
