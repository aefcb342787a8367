#include "scheduler/disk.hpp"

namespace dynamicfs::scheduler {

std::size_t IoGroup::add(Disk& disk, const IoRequest& request) {
  entries_.push_back({&disk, request});
  return entries_.size() - 1;
}

std::size_t IoGroup::read(Disk& disk, IoClass io_class, std::uint64_t offset_bytes,
                          std::span<std::byte> into, std::shared_ptr<void> memory) {
  IoRequest request;
  request.op = IoOp::kRead;
  request.memory = std::move(memory);
  request.io_class = io_class;
  request.offset_bytes = offset_bytes;
  request.data = into.data();
  request.size_bytes = into.size();
  return add(disk, request);
}

std::size_t IoGroup::write(Disk& disk, IoClass io_class, std::uint64_t offset_bytes,
                           std::span<const std::byte> from, bool durable) {
  IoRequest request;
  request.op = IoOp::kWrite;
  request.io_class = io_class;
  request.durable = durable;
  request.offset_bytes = offset_bytes;
  request.data = const_cast<std::byte*>(from.data());  // a write only reads from it
  request.size_bytes = from.size();
  return add(disk, request);
}

std::size_t IoGroup::write_and_flush(Disk& disk, IoClass io_class, std::uint64_t offset_bytes,
                                     std::span<const std::byte> from) {
  const std::size_t index = write(disk, io_class, offset_bytes, from, true);
  entries_[index].request.flushes = true;
  return index;
}

std::size_t IoGroup::flush(Disk& disk, IoClass io_class) {
  IoRequest request;
  request.op = IoOp::kFlush;
  request.io_class = io_class;
  return add(disk, request);
}

std::size_t IoGroup::check(Disk& disk, IoClass io_class) {
  IoRequest request;
  request.op = IoOp::kCheck;
  request.io_class = io_class;
  return add(disk, request);
}

Result<void> IoGroup::result() const {
  for (const Entry& entry : entries_) {
    if (entry.request.error.code != Code::kOk) return entry.request.error;
  }
  return {};
}

bool IoGroup::start(std::coroutine_handle<> handle) {
  assert_no_mutex_held();
  continuation_ = handle;
  // One more than there are requests, for this function: only the last to arrive resumes, so a
  // request that completes inside submit() cannot resume the coroutine while it suspends.
  left_.store(entries_.size() + 1, std::memory_order_relaxed);
  for (Entry& entry : entries_) {
    entry.request.owner = this;
    entry.request.on_complete = &IoGroup::completed;
    entry.request.error = {};
    entry.request.done_bytes = 0;
    entry.disk->submit(entry.request);
  }
  return left_.fetch_sub(1, std::memory_order_acq_rel) != 1;
}

void IoGroup::completed(IoRequest& request) {
  auto& group = *static_cast<IoGroup*>(request.owner);
  const std::coroutine_handle<> continuation = group.continuation_;
  if (group.left_.fetch_sub(1, std::memory_order_acq_rel) == 1) continuation.resume();
}

Task<Result<void>> read(Disk& disk, IoClass io_class, std::uint64_t offset_bytes,
                        std::span<std::byte> into, std::shared_ptr<void> memory) {
  IoGroup group;
  group.read(disk, io_class, offset_bytes, into, std::move(memory));
  co_await group.run();
  co_return group.result();
}

Task<Result<void>> write(Disk& disk, IoClass io_class, std::uint64_t offset_bytes,
                         std::span<const std::byte> from, bool durable) {
  IoGroup group;
  group.write(disk, io_class, offset_bytes, from, durable);
  co_await group.run();
  co_return group.result();
}

Task<Result<void>> flush(Disk& disk, IoClass io_class) {
  IoGroup group;
  group.flush(disk, io_class);
  co_await group.run();
  co_return group.result();
}

}  // namespace dynamicfs::scheduler
