// A simulated disk that writes down what it is asked and when it answers, and what a power cut at any
// moment may leave of that.
//
// Method: Mohan et al., "Finding Crash-Consistency Bugs with Bounded Black-Box Crash Testing" (OSDI
// '18) for the workloads, Pillai et al., "All File Systems Are Not Created Equal" (OSDI '14) for the
// states: a write that no completed flush covers, or that was not answered, is there, or not, or in
// part, independently of all others.
#pragma once

#include <cstdint>
#include <memory>
#include <random>
#include <set>
#include <unordered_set>
#include <vector>

#include "tests/support/forwarding_disk.hpp"

namespace dynamicfs::test {

// What happened on all disks, in one order.
class Trace {
 public:
  static constexpr std::uint32_t kNever = ~std::uint32_t{0};
  struct Write {
    std::size_t disk = 0;
    std::uint64_t offset_bytes = 0;
    std::vector<scheduler::SimulatedMedia::Block> blocks;
    bool durable = false;
    bool flushes = false;  // ... and everything that was done when it was submitted
    std::uint32_t submitted = 0;
    std::uint32_t done = kNever;
    std::uint32_t sure = kNever;  // from then on nothing takes it away
  };

  // Of a request under way; what began before forget() is not noted.
  struct Note {
    std::uint32_t life = 0;
    std::size_t index = 0;
  };
  Note note_flush() const { return {life_, events_}; }

  // The number of the last event; power may go behind any.
  std::uint32_t now() const { return events_; }
  void forget() {
    writes.clear();
    events_ = 0;
    ++life_;
  }

  Note write_submitted(std::size_t disk, const scheduler::IoRequest& request) {
    Write write;
    write.disk = disk;
    write.flushes = request.flushes;
    write.offset_bytes = request.offset_bytes;
    for (std::size_t at = 0; at < request.size_bytes; at += kBlockBytes) {
      write.blocks.push_back(
          scheduler::SimulatedMedia::make_block({request.data + at, kBlockBytes}));
    }
    write.durable = request.durable;
    write.submitted = ++events_;
    writes.push_back(std::move(write));
    return {life_, writes.size() - 1};
  }
  void write_done(Note note) {
    if (note.life != life_) return;
    const std::size_t index = note.index;
    writes[index].done = ++events_;
    if (writes[index].durable) writes[index].sure = events_;
    if (writes[index].flushes) cover(writes[index].disk, writes[index].submitted);
  }
  // `note.index`: now() when the flush was submitted.
  void flush_done(std::size_t disk, Note note) {
    if (note.life != life_) return;
    const auto submitted = static_cast<std::uint32_t>(note.index);
    ++events_;
    cover(disk, submitted);
  }

  std::vector<Write> writes;

 private:
  void cover(std::size_t disk, std::uint32_t done_by) {
    for (Write& write : writes) {
      if (write.disk == disk && write.done <= done_by) write.sure = std::min(write.sure, events_);
    }
  }

  std::uint32_t events_ = 0;
  std::uint32_t life_ = 0;
};

class RecordingDisk final : public ForwardingDisk {
 public:
  RecordingDisk(std::unique_ptr<scheduler::SimulatedDisk> device, std::size_t index, Trace& trace)
      : ForwardingDisk(std::move(device)), index_(index), trace_(trace) {}

  void submit(scheduler::IoRequest& request) override {
    auto* const asked = new Asked{*this, request, request, {}};
    asked->inner.on_complete = &RecordingDisk::completed;
    asked->inner.owner = asked;
    if (request.op == scheduler::IoOp::kWrite)
      asked->note = trace_.write_submitted(index_, request);
    if (request.op == scheduler::IoOp::kFlush) asked->note = trace_.note_flush();
    device_->submit(asked->inner);
  }

 private:
  struct Asked {
    RecordingDisk& disk;
    scheduler::IoRequest& outer;
    scheduler::IoRequest inner;
    Trace::Note note;
  };
  static void completed(scheduler::IoRequest& request) {
    const std::unique_ptr<Asked> asked{static_cast<Asked*>(request.owner)};
    Trace& trace = asked->disk.trace_;
    if (request.error.code == Code::kOk) {
      if (request.op == scheduler::IoOp::kWrite) trace.write_done(asked->note);
      if (request.op == scheduler::IoOp::kFlush) {
        trace.flush_done(asked->disk.index_, asked->note);
      }
    }
    asked->outer.error = request.error;
    asked->outer.on_complete(asked->outer);
  }

  const std::size_t index_;
  Trace& trace_;
};

}  // namespace dynamicfs::test
