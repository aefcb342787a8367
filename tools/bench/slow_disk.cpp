// A disk that takes its time: a file system with one file, `disk`, whose transfers wait for one of a
// few heads, first come first served, and then take `latency + size / bandwidth`.
//
// What the block layer's throttle is not: it hands out its bandwidth in slices of 100 ms, so who comes
// after a slice is used up waits for its end, whoever was first.
//
//   slow_disk BACKING MOUNTPOINT HEADS LATENCY_US MB_PER_S     (in the foreground; ends on unmount)
#define FUSE_USE_VERSION 312
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <queue>
#include <thread>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;

constexpr fuse_ino_t kFile = 2;
constexpr double kForever = 1e9;

int backing = -1;
std::chrono::microseconds latency;
double bytes_per_us = 1;

// What is to be answered, and when.
struct Answer {
  Clock::time_point at;
  fuse_req_t request;
  enum class Kind { kRead, kWrite, kSync } kind;
  std::size_t size;
  off_t offset;
  bool operator>(const Answer& other) const { return at > other.at; }
};
std::mutex mutex;
std::condition_variable changed;
std::priority_queue<Answer, std::vector<Answer>, std::greater<>> answers;
std::vector<Clock::time_point> free_at;  // of each head
bool stopping = false;

void serve(fuse_req_t request, Answer::Kind kind, std::size_t size, off_t offset) {
  const std::lock_guard lock(mutex);
  const auto now = Clock::now();
  Clock::time_point at;
  if (kind == Answer::Kind::kSync) {
    at = std::max(now, *std::max_element(free_at.begin(), free_at.end()));
  } else {
    auto& head = *std::min_element(free_at.begin(), free_at.end());
    head = std::max(now, head) + latency +
           std::chrono::microseconds{static_cast<long>(static_cast<double>(size) / bytes_per_us)};
    at = head;
  }
  answers.push({at, request, kind, size, offset});
  changed.notify_one();
}

void answer_all() {
  std::vector<char> buffer(2 << 20);
  std::unique_lock lock(mutex);
  while (!stopping) {
    if (answers.empty()) {
      changed.wait(lock);
      continue;
    }
    const Answer next = answers.top();
    if (next.at > Clock::now()) {
      changed.wait_until(lock, next.at);
      continue;
    }
    answers.pop();
    lock.unlock();
    switch (next.kind) {
      case Answer::Kind::kRead: {
        const ssize_t got = ::pread(backing, buffer.data(), next.size, next.offset);
        got < 0 ? fuse_reply_err(next.request, errno)
                : fuse_reply_buf(next.request, buffer.data(), static_cast<std::size_t>(got));
        break;
      }
      case Answer::Kind::kWrite: fuse_reply_write(next.request, next.size); break;
      case Answer::Kind::kSync: fuse_reply_err(next.request, 0); break;
    }
    lock.lock();
  }
}

bool attributes_of(fuse_ino_t inode, struct stat& of) {
  std::memset(&of, 0, sizeof of);
  of.st_ino = inode;
  if (inode == FUSE_ROOT_ID) {
    of.st_mode = S_IFDIR | 0755;
    of.st_nlink = 2;
    return true;
  }
  if (inode != kFile) return false;
  of.st_size = ::lseek(backing, 0, SEEK_END);
  of.st_blocks = of.st_size / 512;
  of.st_mode = S_IFREG | 0600;
  of.st_nlink = 1;
  return true;
}

void on_lookup(fuse_req_t request, fuse_ino_t, const char* name) {
  fuse_entry_param entry{};
  if (std::strcmp(name, "disk") != 0 || !attributes_of(kFile, entry.attr)) {
    fuse_reply_err(request, ENOENT);
    return;
  }
  entry.ino = kFile;
  entry.attr_timeout = entry.entry_timeout = kForever;
  fuse_reply_entry(request, &entry);
}
void on_getattr(fuse_req_t request, fuse_ino_t inode, fuse_file_info*) {
  struct stat of;
  attributes_of(inode, of) ? fuse_reply_attr(request, &of, kForever)
                           : fuse_reply_err(request, ENOENT);
}
void on_open(fuse_req_t request, fuse_ino_t inode, fuse_file_info* file) {
  inode == kFile ? fuse_reply_open(request, file) : fuse_reply_err(request, EISDIR);
}
void on_read(fuse_req_t request, fuse_ino_t, std::size_t size, off_t offset, fuse_file_info*) {
  serve(request, Answer::Kind::kRead, size, offset);
}
void on_write(fuse_req_t request, fuse_ino_t, const char* data, std::size_t size, off_t offset,
              fuse_file_info*) {
  // At once: the memory is ours only now. Nobody looks before the answer.
  if (::pwrite(backing, data, size, offset) != static_cast<ssize_t>(size)) {
    fuse_reply_err(request, EIO);
    return;
  }
  serve(request, Answer::Kind::kWrite, size, offset);
}
void on_fsync(fuse_req_t request, fuse_ino_t, int, fuse_file_info*) {
  serve(request, Answer::Kind::kSync, 0, 0);
}

}  // namespace

int main(int count, char** words) {
  if (count != 6) {
    std::fprintf(stderr, "slow_disk BACKING MOUNTPOINT HEADS LATENCY_US MB_PER_S\n");
    return 4;
  }
  backing = ::open(words[1], O_RDWR | O_CLOEXEC);
  const int heads = std::atoi(words[3]);
  latency = std::chrono::microseconds{std::atoi(words[4])};
  bytes_per_us = std::atof(words[5]);
  if (backing < 0 || heads <= 0 || latency.count() < 0 || bytes_per_us <= 0) {
    std::fprintf(stderr, "%s cannot be opened, or the numbers make no sense\n", words[1]);
    return 4;
  }
  free_at.resize(static_cast<std::size_t>(heads));

  fuse_lowlevel_ops operations{};
  operations.lookup = on_lookup;
  operations.getattr = on_getattr;
  operations.open = on_open;
  operations.read = on_read;
  operations.write = on_write;
  operations.fsync = on_fsync;
  char name[] = "slow_disk";
  char option[] = "-ofsname=slow_disk";
  char* arguments[] = {name, option};
  fuse_args args = FUSE_ARGS_INIT(2, arguments);
  fuse_session* const session = fuse_session_new(&args, &operations, sizeof operations, nullptr);
  if (session == nullptr || fuse_session_mount(session, words[2]) != 0) return 3;
  std::thread answering(answer_all);
  const int result = fuse_session_loop(session);
  {
    const std::lock_guard lock(mutex);
    stopping = true;
    changed.notify_one();
  }
  answering.join();
  fuse_session_unmount(session);
  fuse_session_destroy(session);
  return result == 0 ? 0 : 3;
}
