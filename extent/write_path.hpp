// What the write path shares with reclaim and repair: the records of chunks on their way to the
// journal, and what an error of a write means.
#pragma once

#include <cerrno>

#include "extent/allocator.hpp"
#include "journal/journal.hpp"

namespace dynamicfs::extent {

// Type, length, id, layout and up to kDisksMax places.
inline constexpr std::uint64_t kChunkPutBytes = 5 + 8 + 6 * journal::kDisksMax;
inline constexpr std::uint64_t kChunkRemoveBytes = 5 + 4;

// A directory disk whose host file system is full: its volume cannot grow, but all that is on it is
// well.
inline bool is_host_full(Error failure) {
  return failure.code == Code::kDiskWrite && failure.sys_errno == ENOSPC;
}

// Within `credit` and a ChangeScope of the caller.
class JournalChunkLog final : public ChunkLog {
 public:
  JournalChunkLog(journal::Journal& journal, journal::Credit& credit)
      : journal_(journal), credit_(credit) {}
  void append(const ChunkPut& change) override { append_encoded(change); }
  Lsn append(const ChunkRemove& change) override { return append_encoded(change); }
  Lsn append_moved(const ChunkPut& change) override {
    return append_encoded(change, journal::RecordOrder::kBehindData);
  }

 private:
  template <class Change>
  Lsn append_encoded(const Change& change,
                     journal::RecordOrder order = journal::RecordOrder::kBesideData) {
    Bytes record;
    ByteWriter writer(record);
    encode(writer, change);
    return journal_.append(credit_, record, order);
  }
  journal::Journal& journal_;
  journal::Credit& credit_;
};

}  // namespace dynamicfs::extent
