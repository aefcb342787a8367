#include "scheduler/command_ring.hpp"

#include <liburing.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <bit>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/assert.hpp"

namespace dynamicfs::scheduler {
namespace {

constexpr std::size_t kEntryBytes = 128;

}  // namespace

Result<std::unique_ptr<CommandRing>> CommandRing::create(unsigned commands) {
  std::unique_ptr<CommandRing> made{new CommandRing};
  made->wake_fd_ = UniqueFd{::eventfd(0, EFD_CLOEXEC)};
  if (!made->wake_fd_) return system_error(Code::kSystem, errno);
  int result = -EINVAL;
  // Linux 6.1; what an older kernel does not know is done without.
  for (const unsigned flags : {IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN, 0U}) {
    result = io_uring_queue_init(std::bit_ceil(commands + 1), made->ring_.get(),
                                 flags | IORING_SETUP_SUBMIT_ALL | IORING_SETUP_SQE128);
    if (result != -EINVAL) break;
  }
  if (result < 0) return system_error(Code::kSystem, -result);
  made->is_made_ = true;
  io_uring_register_ring_fd(made->ring_.get());
  return made;
}

CommandRing::CommandRing() : ring_(std::make_unique<io_uring>()) {}

CommandRing::~CommandRing() {
  if (is_made_) io_uring_queue_exit(ring_.get());
}

io_uring_sqe* CommandRing::next_entry() {
  io_uring_sqe* entry = io_uring_get_sqe(ring_.get());
  if (entry == nullptr && io_uring_submit(ring_.get()) >= 0) entry = io_uring_get_sqe(ring_.get());
  if (entry != nullptr) std::memset(static_cast<void*>(entry), 0, kEntryBytes);
  return entry;
}

Result<void> CommandRing::add(const Command& command) {
  DFS_ASSERT(command.body.size() <= kBodyBytesMax);
  io_uring_sqe* const entry = next_entry();
  if (entry == nullptr) return system_error(Code::kSystem, EBUSY);
  entry->opcode = IORING_OP_URING_CMD;
  entry->fd = command.fd;
  entry->cmd_op = command.op;
  entry->addr = reinterpret_cast<std::uint64_t>(command.memory.data());
  entry->len = static_cast<std::uint32_t>(command.memory.size());
  entry->user_data = reinterpret_cast<std::uint64_t>(command.tag);
  std::memcpy(entry->cmd, command.body.data(), command.body.size());
  return {};
}

bool CommandRing::listen() {
  if (is_listening_) return true;
  io_uring_sqe* const entry = next_entry();
  if (entry == nullptr) return false;
  io_uring_prep_read(entry, wake_fd_.get(), &wakes_, sizeof wakes_, 0);
  entry->user_data = reinterpret_cast<std::uint64_t>(&wakes_);
  is_listening_ = true;
  return true;
}

Result<void> CommandRing::wait(std::vector<Completion>& done) {
  done.clear();
  if (!listen()) return system_error(Code::kSystem, EBUSY);
  const int result = io_uring_submit_and_wait(ring_.get(), 1);
  if (result < 0 && result != -EINTR && result != -EAGAIN && result != -EBUSY) {
    return system_error(Code::kSystem, -result);
  }
  unsigned head = 0;
  unsigned count = 0;
  io_uring_cqe* completion = nullptr;
  io_uring_for_each_cqe(ring_.get(), head, completion) {
    ++count;
    if (completion->user_data == reinterpret_cast<std::uint64_t>(&wakes_)) {
      is_listening_ = false;
    } else {
      done.push_back({reinterpret_cast<void*>(completion->user_data), completion->res});
    }
  }
  io_uring_cq_advance(ring_.get(), count);
  return {};
}

void CommandRing::wake() {
  const std::uint64_t one = 1;
  [[maybe_unused]] const auto told = ::write(wake_fd_.get(), &one, sizeof one);
}

}  // namespace dynamicfs::scheduler
