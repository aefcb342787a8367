// Records in RAM between append() and their batch: a ring that many threads fill without a lock and
// one committer empties in LSN order.
//
// Room is taken as credits before an LSN is drawn, and comes back when the committer has copied the
// record out. So the records that hold a slot never outnumber the slots, and whoever draws an LSN
// finds slot (lsn mod kRingRecords) free: drawing never waits.
//
// Memory order  The payload is published by a release store of the LSN into its slot; the committer
//               acquires it. Credits hand a slot back: released by the committer, acquired by the
//               one who takes them.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>

#include "base/assert.hpp"
#include "base/buffer.hpp"
#include "base/ids.hpp"
#include "journal/journal.hpp"
#include "journal/record_format.hpp"

namespace dynamicfs::journal {

class RecordRing {
 public:
  // `last`: the first record gets the LSN after it.
  explicit RecordRing(Lsn last)
      : next_(last.raw + 1),
        memory_(kRingRecords * sizeof(Slot)),
        slots_(reinterpret_cast<Slot*>(memory_.data())) {
    // The payloads stay as they are: only what says that a slot is empty is written.
    std::uninitialized_default_construct_n(slots_, kRingRecords);
  }
  ~RecordRing() { std::destroy_n(slots_, kRingRecords); }
  RecordRing(const RecordRing&) = delete;
  RecordRing& operator=(const RecordRing&) = delete;

  // Takes room if it is there.
  bool try_take(std::uint32_t records, std::uint64_t bytes) {
    const std::uint64_t wanted = pack(records, bytes);
    std::uint64_t have = credits_.load(std::memory_order_relaxed);
    do {
      if (records_of(have) < records || bytes_of(have) < bytes) return false;
    } while (!credits_.compare_exchange_weak(have, have - wanted, std::memory_order_seq_cst,
                                             std::memory_order_relaxed));
    return true;
  }
  void give_back(std::uint32_t records, std::uint64_t bytes) {
    credits_.fetch_add(pack(records, bytes), std::memory_order_seq_cst);
  }
  // Less than half of the room is left: time to commit even if nobody waits.
  bool filling() const {
    const std::uint64_t have = credits_.load(std::memory_order_relaxed);
    return records_of(have) < kRingRecords / 2 || bytes_of(have) < kRingBytesMax / 2;
  }

  // Room for it has been taken.
  Lsn append(std::span<const std::byte> payload, RecordOrder order) {
    // What can fail comes first: an LSN without a record would stop the log.
    std::unique_ptr<std::byte[]> heap;
    if (payload.size() > kInlineBytes) {
      heap = std::make_unique_for_overwrite<std::byte[]>(payload.size());
    }
    const Lsn lsn{next_.fetch_add(1, std::memory_order_seq_cst)};
    Slot& slot = slots_[lsn.raw % kRingRecords];
    slot.size_bytes = static_cast<std::uint32_t>(payload.size());
    slot.heap = std::move(heap);
    std::byte* const to = slot.heap ? slot.heap.get() : slot.inline_bytes.data();
    std::memcpy(to, payload.data(), payload.size());
    slot.crc = frame_crc(lsn, payload);
    slot.order = order;
    slot.published.store(lsn.raw, std::memory_order_release);
    return lsn;
  }
  // The newest LSN drawn; its record may not be published yet.
  Lsn last() const { return Lsn{next_.load(std::memory_order_seq_cst) - 1}; }

  // For the committer alone: whether the record is there, what it is, and that it is done with.
  bool published(Lsn lsn) const {
    return slots_[lsn.raw % kRingRecords].published.load(std::memory_order_acquire) == lsn.raw;
  }
  std::uint32_t crc(Lsn lsn) const { return slots_[lsn.raw % kRingRecords].crc; }
  RecordOrder order(Lsn lsn) const { return slots_[lsn.raw % kRingRecords].order; }
  std::size_t size_bytes(Lsn lsn) const { return slots_[lsn.raw % kRingRecords].size_bytes; }
  std::span<const std::byte> payload(Lsn lsn) const {
    const Slot& slot = slots_[lsn.raw % kRingRecords];
    return {slot.heap ? slot.heap.get() : slot.inline_bytes.data(), slot.size_bytes};
  }
  // The room comes back by give_back().
  void release(Lsn lsn) { slots_[lsn.raw % kRingRecords].heap.reset(); }

 private:
  // A slot is four cache lines; most records are extents with a few checksums.
  static constexpr std::size_t kInlineBytes = 231;
  struct alignas(64) Slot {
    std::atomic<std::uint64_t> published{0};
    std::uint32_t size_bytes = 0;
    std::uint32_t crc = 0;
    std::unique_ptr<std::byte[]> heap;
    RecordOrder order = RecordOrder::kBesideData;
    std::array<std::byte, kInlineBytes> inline_bytes;
  };
  static_assert(sizeof(Slot) == 256);

  // Both kinds of room in one word, so that one compare-and-swap takes both.
  static_assert(kRingRecords < (std::uint64_t{1} << 31) &&
                kRingBytesMax < (std::uint64_t{1} << 31));
  static constexpr std::uint64_t pack(std::uint64_t records, std::uint64_t bytes) {
    return bytes << 32 | records;
  }
  static constexpr std::uint64_t records_of(std::uint64_t credits) { return credits & 0xffffffff; }
  static constexpr std::uint64_t bytes_of(std::uint64_t credits) { return credits >> 32; }

  alignas(64) std::atomic<std::uint64_t> next_;
  alignas(64) std::atomic<std::uint64_t> credits_{pack(kRingRecords, kRingBytesMax)};
  alignas(64) Buffer memory_;
  Slot* const slots_;  // kRingRecords of them, in memory_
};

}  // namespace dynamicfs::journal
