#include "journal/recovery.hpp"

#include <algorithm>
#include <cstring>

#include "base/buffer.hpp"
#include "base/crc32c.hpp"
#include "base/log.hpp"
#include "base/mutant.hpp"
#include "journal/record_format.hpp"

namespace dynamicfs::journal {
namespace {

using scheduler::IoClass;
using scheduler::IoGroup;

// Shown at once of each copy. The first window is just large enough for any batch and the header
// behind it, which is all there is after an orderly shutdown; the following ones double until a
// spinning disk streams.
constexpr std::uint64_t kWindowBytesMin = kBatchBytesMax + 64 * kKiB;
constexpr std::uint64_t kWindowBytesMax = 8 * kMiB;
constexpr std::uint64_t kReadBytes = 1 * kMiB;
// Of batches whose records are prepared together: a thousand of one fsync each, or four of the
// largest.
constexpr std::uint64_t kPassedBytesMax = 4 * kMiB;

// One disk's copy of the log, as far as the window shows it.
struct Copy {
  DiskId id;
  scheduler::Disk* disk = nullptr;
  bool old_member = false;  // it took part in the last epoch: what it lacks was never acknowledged
  Buffer window;
  std::vector<bool> unreadable;  // by block of the window
  // Bytes to write: [repair_from, repair_end) of the log, as they stand in the window of `source`.
  std::uint64_t repair_from = 0;
  std::uint64_t repair_end = 0;
  const Copy* source = nullptr;
};

class Recovery {
 public:
  Recovery(Pool& pool, Replay replay) : pool_(pool), replay_(std::move(replay)) {}
  Task<Result<Recovered>> run();

 private:
  struct Finding {
    const Copy* good = nullptr;
    BatchHeader header;
    std::vector<Copy*> lacking;
  };

  void find_copies();
  Task<Result<void>> show(std::uint64_t offset);
  Task<Result<void>> read_by_block(Copy* copy, std::uint64_t from, std::uint64_t size_bytes);
  Task<Result<void>> write_repairs();
  Task<Result<void>> flush_all();
  Finding find_batch(std::uint64_t offset) const;
  Task<Result<bool>> take_batch(std::uint64_t offset);
  Task<Result<void>> check_end();
  Result<void> hold_newest(const BatchHeader& header, std::span<const std::byte> batch);
  Task<Result<void>> pass_newest();
  Task<Result<void>> apply_passed();
  Task<Result<void>> end_log();
  Task<Result<void>> cut_newest(std::size_t records);
  Result<void> look_for_later(std::uint64_t from, std::uint64_t end) const;

  // The part of `copy` that the window shows from `offset` on.
  std::span<const std::byte> shown(const Copy& copy, std::uint64_t offset) const {
    return std::span<const std::byte>{copy.window.span()}
        .first(window_bytes_)
        .subspan(offset - window_from_);
  }
  bool readable(const Copy& copy, std::uint64_t offset, std::uint64_t size_bytes) const;
  Task<Result<void>> drop(DiskId id, Error cause);
  Task<Result<void>> drop_failed(const IoGroup& group, std::vector<DiskId> ids);

  Pool& pool_;
  Replay replay_;
  Superblock superblock_;
  std::vector<std::unique_ptr<Copy>> copies_;
  std::uint64_t window_from_ = 0;
  std::uint64_t window_bytes_ = 0;  // 0: nothing is shown
  std::uint64_t window_wanted_ = 0;
  LogPosition next_;
  // A batch that has not been applied yet. `records`: those that are not in the run, of `bytes`.
  struct Held {
    BatchHeader header;
    Bytes bytes;
    std::vector<TailRecord> records;
  };
  std::optional<Held> newest_;  // found: it may be the last one
  std::vector<Held> passed_;    // others follow them, or all their records are true; ascending
  std::uint64_t passed_bytes_ = 0;
  bool followed_ =
      false;  // a later batch than the newest was seen, so that was durable with its data
  Recovered recovered_;
};

void Recovery::find_copies() {
  const std::vector<DiskId> found = pool_.members_found();
  std::vector<DiskId> ids;
  for (const DiskId id : found) {
    if (pool_.disk(id) != nullptr) ids.push_back(id);
  }
  if (!pool_.read_only()) {
    for (const DiskId id : pool_.members_to_be()) {
      if (std::ranges::find(ids, id) == ids.end()) ids.push_back(id);
    }
  }
  if (replay_.salvage) {
    for (const DiskId id : *pool_.healthy()) {
      if (superblock_.find(id)->journal_bytes < superblock_.log_bytes) continue;
      if (std::ranges::find(ids, id) == ids.end()) ids.push_back(id);
    }
  }
  for (const DiskId id : ids) {
    auto copy = std::make_unique<Copy>();
    copy->id = id;
    copy->disk = pool_.disk(id);
    copy->old_member = std::ranges::find(found, id) != found.end();
    copies_.push_back(std::move(copy));
  }
}

// A disk that fails here leaves the pool; begin() makes that durable.
Task<Result<void>> Recovery::drop(DiskId id, Error cause) {
  // Its window may be the source of repairs, but those are written before anything is dropped.
  for (const auto& copy : copies_) DFS_ASSERT(copy->repair_from == copy->repair_end);
  std::erase_if(copies_, [id](const auto& copy) { return copy->id == id; });
  const Result<void> reported = co_await pool_.report_failure(id, cause);
  if (replay_.salvage) co_return Result<void>{};
  co_return reported;
}

// `ids`: whose requests `group` has, in its order.
Task<Result<void>> Recovery::drop_failed(const IoGroup& group, std::vector<DiskId> ids) {
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (group.error(i).code == Code::kOk) continue;
    CO_TRY(co_await drop(ids[i], group.error(i)));
  }
  co_return Result<void>{};
}

bool Recovery::readable(const Copy& copy, std::uint64_t offset, std::uint64_t size_bytes) const {
  const std::uint64_t from = (offset - window_from_) / kBlockBytes;
  const std::uint64_t end = from + ceil_div(size_bytes, kBlockBytes);
  for (std::uint64_t block = from; block < end; ++block) {
    if (copy.unreadable[block]) return false;
  }
  return true;
}

// Reads what one larger read could not, block by block: a bad sector spoils one block.
Task<Result<void>> Recovery::read_by_block(Copy* copy, std::uint64_t from,
                                           std::uint64_t size_bytes) {
  IoGroup group;
  for (std::uint64_t at = from; at < from + size_bytes; at += kBlockBytes) {
    group.read(*copy->disk, IoClass::kCritical, kJournalOffset + at,
               copy->window.span().subspan(at - window_from_, kBlockBytes));
  }
  co_await group.run();
  for (std::size_t i = 0; i < group.size(); ++i) {
    const Error failure = group.error(i);
    if (failure.code == Code::kDiskGone) co_return failure;
    if (failure.code == Code::kOk) continue;
    copy->unreadable[(from - window_from_) / kBlockBytes + i] = true;
  }
  co_return Result<void>{};
}

// Makes the window show everything a batch at `offset` could cover.
Task<Result<void>> Recovery::show(std::uint64_t offset) {
  const std::uint64_t end = std::min(offset + kBatchBytesMax + kBlockBytes, superblock_.log_bytes);
  if (window_bytes_ != 0 && offset >= window_from_ && end <= window_from_ + window_bytes_) {
    co_return Result<void>{};
  }
  CO_TRY(co_await write_repairs());
  const bool goes_on = window_bytes_ != 0 && offset > window_from_;
  window_wanted_ = goes_on ? std::min(2 * window_wanted_, kWindowBytesMax) : kWindowBytesMin;
  window_from_ = offset;
  window_bytes_ = std::min(window_wanted_, superblock_.log_bytes - offset);
  for (const auto& copy : copies_) {
    if (copy->window.size() < window_bytes_) copy->window = Buffer{window_bytes_};
    copy->unreadable.assign(window_bytes_ / kBlockBytes, false);
  }

  IoGroup group;
  for (const auto& copy : copies_) {
    for (std::uint64_t at = 0; at < window_bytes_; at += kReadBytes) {
      const std::uint64_t size_bytes = std::min(kReadBytes, window_bytes_ - at);
      group.read(*copy->disk, IoClass::kCritical, kJournalOffset + window_from_ + at,
                 copy->window.span().subspan(at, size_bytes));
    }
  }
  co_await group.run();
  const std::uint64_t reads_each = ceil_div(window_bytes_, kReadBytes);
  std::vector<std::pair<DiskId, Error>> gone;
  for (std::size_t i = 0; i < copies_.size(); ++i) {
    for (std::uint64_t k = 0; k < reads_each; ++k) {
      if (group.error(i * reads_each + k).code == Code::kOk) continue;
      const std::uint64_t size_bytes = std::min(kReadBytes, window_bytes_ - k * kReadBytes);
      const Result<void> read =
          co_await read_by_block(copies_[i].get(), window_from_ + k * kReadBytes, size_bytes);
      if (read.has_value()) continue;
      gone.emplace_back(copies_[i]->id, read.error());
      break;
    }
  }
  for (const auto& [id, failure] : gone) {
    CO_TRY(co_await drop(id, failure));
  }
  co_return Result<void>{};
}

Task<Result<void>> Recovery::write_repairs() {
  IoGroup group;
  std::vector<Copy*> written;
  std::vector<DiskId> ids;
  for (const auto& copy : copies_) {
    if (copy->repair_from == copy->repair_end) continue;
    const auto bytes = shown(*copy->source, copy->repair_from);
    group.write(*copy->disk, IoClass::kCritical, kJournalOffset + copy->repair_from,
                bytes.first(copy->repair_end - copy->repair_from));
    written.push_back(copy.get());
    ids.push_back(copy->id);
  }
  co_await group.run();
  for (Copy* const copy : written) copy->repair_from = copy->repair_end = 0;
  co_return co_await drop_failed(group, ids);
}

// Every disk, whether we wrote to it or not: what a killed daemon wrote last may be in a volatile
// cache, and from now on it counts.
Task<Result<void>> Recovery::flush_all() {
  IoGroup group;
  std::vector<DiskId> ids = *pool_.healthy();
  for (const DiskId id : ids) group.flush(*pool_.disk(id), IoClass::kCritical);
  co_await group.run();
  co_return co_await drop_failed(group, std::move(ids));
}

Result<void> Recovery::hold_newest(const BatchHeader& header, std::span<const std::byte> batch) {
  newest_ = Held{.header = header, .bytes = {}, .records = {}};
  const auto bytes = batch.first(header.batch_bytes());
  newest_->bytes.assign(bytes.begin(), bytes.end());
  return for_each_record(header, newest_->bytes,
                         [&](Lsn lsn, std::span<const std::byte> payload) -> Result<void> {
                           if (lsn > superblock_.manifest.lsn)
                             newest_->records.push_back({lsn, payload});
                           return {};
                         });
}

// There is a batch behind the newest, or its records are all true.
Task<Result<void>> Recovery::pass_newest() {
  if (!newest_) co_return Result<void>{};
  passed_bytes_ += newest_->bytes.size();
  passed_.push_back(*std::exchange(newest_, std::nullopt));
  if (passed_bytes_ >= kPassedBytesMax) co_return co_await apply_passed();
  co_return Result<void>{};
}

Task<Result<void>> Recovery::apply_passed() {
  passed_bytes_ = 0;
  const std::vector<Held> passed = std::exchange(passed_, {});
  std::vector<TailRecord> records;
  for (const Held& batch : passed) {
    records.insert(records.end(), batch.records.begin(), batch.records.end());
  }
  if (replay_.prepare && !records.empty()) co_await replay_.prepare(records);
  for (const TailRecord& record : records) {
    const Result<void> applied = co_await replay_.apply(record.lsn, record.payload);
    if (applied.has_value()) continue;
    if (!replay_.salvage) co_return applied.error();
    ++recovered_.report.records_failed;
  }
  recovered_.report.records_replayed += records.size();
  recovered_.report.batches_replayed += passed.size();
  for (const Held& batch : passed) {
    recovered_.report.last = std::max(recovered_.report.last, batch.header.last);
  }
  co_return Result<void>{};
}

// Nothing follows the newest batch.
Task<Result<void>> Recovery::end_log() {
  CO_TRY(co_await apply_passed());
  const bool beside = newest_ && newest_->header.beside_flush;
  recovered_.certain = recovered_.report.last;
  if (newest_ && newest_->header.beside_flush && replay_.count_whole && !followed_ &&
      !mutated(Mutant::kBelieveTail)) {
    const std::size_t records = newest_->records.size();
    recovered_.report.records_checked = records;
    Result<std::size_t> counted = co_await replay_.count_whole(newest_->records);
    if (!counted.has_value() && replay_.salvage) counted = records;
    CO_TRY_ASSIGN(const std::size_t whole, counted);
    DFS_ASSERT(whole <= records);
    // Completing copies of data may have cost a disk, which must not be a member then.
    CO_TRY(co_await write_repairs());
    std::erase_if(copies_, [this](const auto& copy) { return pool_.disk(copy->id) == nullptr; });
    if (whole < records) {
      recovered_.report.records_dropped = records - whole;
      log_warning(
          "the last {} records of the journal are dropped: data of theirs had not reached the "
          "disks when the power went, or has been damaged since",
          records - whole);
      CO_TRY(co_await cut_newest(whole));
    }
  }
  CO_TRY(co_await pass_newest());
  CO_TRY(co_await apply_passed());
  if (!beside) recovered_.certain = recovered_.report.last;
  co_return Result<void>{};
}

// Writes the last batch anew with the first of its records, in its old place on every copy. The
// blocks of the others are as good as free, so they must not come back.
Task<Result<void>> Recovery::cut_newest(std::size_t records) {
  const BatchHeader old = newest_->header;
  const Bytes old_bytes = std::move(newest_->bytes);
  const Lsn end = newest_->records[records].lsn;  // the first that goes
  BatchHeader header = old;
  header.records = 0;
  header.payload_bytes = 0;
  std::size_t at = kBatchHeaderBytes;
  const Result<void> counted = for_each_record(
      old, old_bytes, [&](Lsn lsn, std::span<const std::byte> payload) -> Result<void> {
        if (lsn >= end) return {};
        header.last = lsn;
        ++header.records;
        at += frame_bytes(payload.size());
        return {};
      });
  CO_TRY(counted);
  if (header.records == 0) {
    header.first = Lsn{};
    header.last = recovered_.report.last;
  }
  header.payload_bytes = static_cast<std::uint32_t>(at - kBatchHeaderBytes);
  Buffer batch{align_up(at, kBlockBytes)};
  std::memset(batch.data(), 0, batch.size());
  std::memcpy(batch.data() + kBatchHeaderBytes, old_bytes.data() + kBatchHeaderBytes,
              header.payload_bytes);
  header.payload_crc = crc32c(batch.span().subspan(kBatchHeaderBytes, header.payload_bytes));
  put_header(batch.span(), header);
  CO_TRY(hold_newest(header, batch.span()));
  if (pool_.read_only() || mutated(Mutant::kKeepTail)) co_return Result<void>{};

  CO_TRY(co_await write_repairs());
  IoGroup group;
  std::vector<DiskId> ids;
  for (const auto& copy : copies_) {
    group.write(*copy->disk, IoClass::kCritical, kJournalOffset + header.offset, batch.span());
    ids.push_back(copy->id);
  }
  co_await group.run();
  CO_TRY(co_await drop_failed(group, ids));
  LoggedBatch& logged = recovered_.batches.back();
  logged.size_bytes = batch.size();
  logged.last = header.last;
  logged.crc = header.crc;
  next_.offset = logged.offset + logged.size_bytes;
  next_.previous_crc = header.crc;
  co_return Result<void>{};
}

// Who has the next batch at `offset`, and who lacks it.
Recovery::Finding Recovery::find_batch(std::uint64_t offset) const {
  ExpectedBatch expected;
  expected.pool = superblock_.pool;
  expected.position = next_;
  expected.position.offset = offset;
  expected.epoch = superblock_.epoch_of(next_.sequence);

  Finding finding;
  for (const auto& copy : copies_) {
    const auto bytes = shown(*copy, offset);
    std::optional<BatchHeader> header;
    if (readable(*copy, offset, kBlockBytes)) header = get_header(bytes);
    const bool whole = header && is_expected(*header, expected) &&
                       header->batch_bytes() <= bytes.size() &&
                       readable(*copy, offset, header->batch_bytes()) &&
                       (payload_whole(*header, bytes) || mutated(Mutant::kAcceptTorn));
    if (!whole || (finding.good != nullptr && *header != finding.header)) {
      finding.lacking.push_back(copy.get());
    } else if (finding.good == nullptr) {
      finding.good = copy.get();
      finding.header = *header;
    }
  }
  return finding;
}

// Takes the next batch if any copy has it at `offset`; false if none has.
Task<Result<bool>> Recovery::take_batch(std::uint64_t offset) {
  if (offset + kBlockBytes > superblock_.log_bytes) co_return false;
  CO_TRY(co_await show(offset));
  Finding finding = find_batch(offset);
  if (finding.good == nullptr) co_return false;
  const bool joins = std::ranges::all_of(finding.lacking, [&](const Copy* copy) {
    return copy->repair_from == copy->repair_end ||
           (copy->repair_end == offset && copy->source == finding.good);
  });
  if (!joins) {
    // Rare: another copy than before is the good one. The disks may be fewer after this.
    CO_TRY(co_await write_repairs());
    finding = find_batch(offset);
    if (finding.good == nullptr) co_return false;
  }

  const BatchHeader& header = finding.header;
  CO_TRY(co_await pass_newest());
  CO_TRY(hold_newest(header, shown(*finding.good, offset)));
  const std::uint64_t end = offset + header.batch_bytes();
  if (!finding.lacking.empty()) ++recovered_.report.batches_lacking;
  if (!finding.lacking.empty() && !pool_.read_only()) {
    ++recovered_.report.batches_repaired;
    for (Copy* const copy : finding.lacking) {
      if (copy->repair_from == copy->repair_end) copy->repair_from = offset;
      copy->repair_end = end;
      copy->source = finding.good;
    }
  }
  recovered_.batches.push_back(LoggedBatch{.sequence = header.sequence,
                                           .offset = offset,
                                           .size_bytes = header.batch_bytes(),
                                           .last = header.last,
                                           .previous_crc = header.previous_crc,
                                           .crc = header.crc});
  next_.sequence = BatchSequence{header.sequence.raw + 1};
  next_.offset = end;
  next_.previous_crc = header.crc;
  co_return true;
}

// A header of a later batch in what the window shows of [from, end): then next_ was durable once.
Result<void> Recovery::look_for_later(std::uint64_t from, std::uint64_t end) const {
  for (const auto& copy : copies_) {
    for (std::uint64_t at = from; at < end; at += kBlockBytes) {
      if (!readable(*copy, at, kBlockBytes)) continue;
      const std::optional<BatchHeader> header = get_header(shown(*copy, at));
      if (!header || !proves(*header, at, superblock_, next_.sequence)) continue;
      log_error(
          "batch {} of the journal is damaged on every disk that has it (batch {} follows it)",
          next_.sequence, header->sequence);
      return error(Code::kCorrupt, next_.sequence.raw);
    }
  }
  return {};
}

// Called where no copy has the next batch: is this the end, or damage?
Task<Result<void>> Recovery::check_end() {
  const std::uint64_t reach = kBatchBytesMax + kBlockBytes;
  for (const std::uint64_t from : {next_.offset, std::uint64_t{0}}) {
    if (from + kBlockBytes > superblock_.log_bytes) continue;
    CO_TRY(co_await show(from));
    const Result<void> later = look_for_later(from, std::min(from + reach, superblock_.log_bytes));
    followed_ = followed_ || !later.has_value();
    CO_TRY(later);

    // An old member that could be read and does not have the batch shows that it was never
    // acknowledged. Without one we know nothing.
    bool known = false;
    for (const auto& copy : copies_) {
      if (!readable(*copy, from, kBlockBytes)) continue;
      known = known || copy->old_member;
      const std::optional<BatchHeader> header = get_header(shown(*copy, from));
      if (header && header->pool == superblock_.pool && header->sequence == next_.sequence) {
        recovered_.report.torn_tail = true;
      }
    }
    if (!known) co_return error(Code::kCorrupt, next_.sequence.raw);
  }
  co_return Result<void>{};
}

Task<Result<Recovered>> Recovery::run() {
  superblock_ = pool_.superblock();
  next_ = superblock_.manifest.log_start;
  recovered_.report.last = superblock_.manifest.lsn;
  find_copies();
  while (true) {
    CO_TRY_ASSIGN(bool taken, co_await take_batch(next_.offset));
    if (!taken && next_.offset != 0) {
      CO_TRY_ASSIGN(taken, co_await take_batch(0));
    }
    if (!taken) break;
  }
  const Result<void> end = co_await check_end();
  if (!end.has_value()) {
    if (!replay_.salvage || end.error().code != Code::kCorrupt) co_return end.error();
    // After an orderly unmount there is nothing in the log, wherever it is now.
    const bool nothing = superblock_.clean && !followed_ &&
                         next_.sequence == superblock_.manifest.log_start.sequence;
    if (!nothing) recovered_.report.damaged = next_.sequence;
  }
  CO_TRY(co_await end_log());
  CO_TRY(co_await write_repairs());
  if (!pool_.read_only()) {
    CO_TRY(co_await flush_all());
  }
  for (const auto& copy : copies_) {
    if (pool_.disk(copy->id) == nullptr) continue;
    if (recovered_.members.size() < kMembersMax) recovered_.members.push_back(copy->id);
  }
  recovered_.next = next_;
  co_return std::move(recovered_);
}

}  // namespace

Task<Result<Recovered>> recover(Pool& pool, Replay replay) {
  Recovery recovery{pool, std::move(replay)};
  CO_TRY_ASSIGN(Recovered recovered, co_await recovery.run());
  co_return std::move(recovered);
}

}  // namespace dynamicfs::journal
