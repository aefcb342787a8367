#include "fs/kernel_writeback.hpp"

#include <pthread.h>

#include <utility>

#include "base/assert.hpp"

namespace dynamicfs::fs {

KernelWriteback::KernelWriteback(Executor& executor, GiveBack give_back)
    : executor_(executor), give_back_(std::move(give_back)), thread_([this] { run(); }) {}

KernelWriteback::~KernelWriteback() { DFS_ASSERT(!thread_.joinable()); }

void KernelWriteback::stop() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

bool KernelWriteback::add(const Job& job) {
  {
    std::lock_guard lock(mutex_);
    if (stopping_) return false;
    jobs_.push_back(job);
  }
  changed_.notify_one();
  return true;
}

void KernelWriteback::run() {
  ::pthread_setname_np(::pthread_self(), "fuse-writeback");
  while (true) {
    Job job;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return stopping_ || !jobs_.empty(); });
      if (jobs_.empty()) return;
      job = jobs_.front();
      jobs_.pop_front();
    }
    give_back_(job.inode, job.range);
    DriverScope scope(executor_);
    executor_.post(job.waiting);
  }
}

}  // namespace dynamicfs::fs
