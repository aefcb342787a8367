// An io_uring for commands to the driver behind a file (IORING_OP_URING_CMD), in entries of 128 bytes, which leave
// 80 for the command.
//
// Threads  Belongs to the thread that calls create(): nobody else may use it, but for wake().
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/result.hpp"
#include "base/unique_fd.hpp"

struct io_uring;
struct io_uring_sqe;

namespace dynamicfs::scheduler {

class CommandRing {
 public:
  struct Command {
    int fd = -1;
    std::uint32_t op = 0;             // what the driver knows it by
    std::span<const std::byte> body;  // at most kBodyBytesMax
    std::span<const iovec> memory;    // kept until it has completed
    void* tag = nullptr;              // comes back with its completion
  };
  static constexpr std::size_t kBodyBytesMax = 80;
  struct Completion {
    void* tag = nullptr;
    int result = 0;
  };

  // With room for `commands` that are added between two waits. kSystem: the kernel has no such rings.
  static Result<std::unique_ptr<CommandRing>> create(unsigned commands);
  // Cancels what the drivers still have.
  ~CommandRing();
  CommandRing(const CommandRing&) = delete;
  CommandRing& operator=(const CommandRing&) = delete;

  // Goes to the kernel with the next wait().
  Result<void> add(const Command& command);
  // Until something has completed or wake() was called; one system call. `done` holds afterwards what has
  // completed, perhaps nothing.
  Result<void> wait(std::vector<Completion>& done);
  // The wait() that is under way, or else the next one, returns. Any thread.
  void wake();

 private:
  CommandRing();
  io_uring_sqe* next_entry();
  bool listen();

  std::unique_ptr<io_uring> ring_;
  bool is_made_ = false;
  UniqueFd wake_fd_;
  std::uint64_t wakes_ = 0;  // what the kernel reads from wake_fd_ into
  bool is_listening_ = false;
};

}  // namespace dynamicfs::scheduler
