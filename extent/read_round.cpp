#include "extent/read_round.hpp"

#include <algorithm>

#include "base/assert.hpp"

namespace dynamicfs::extent {

ReadRound::ReadRound(Executor& executor, Buffer memory, std::size_t pieces)
    : executor_(executor), memory_(std::move(memory)) {
  first_.reserve(pieces);
}

void ReadRound::prepare(Attempt& attempt, const Question& question, std::size_t piece,
                        std::span<std::byte> into) {
  attempt.round = this;
  attempt.question = question;
  attempt.piece = piece;
  attempt.request.op = scheduler::IoOp::kRead;
  attempt.request.io_class = question.io_class;
  attempt.request.offset_bytes = question.offset_bytes;
  attempt.request.data = into.data();
  attempt.request.size_bytes = into.size();
  attempt.request.on_complete = &ReadRound::completed;
  attempt.request.owner = &attempt;
  attempt.request.memory = shared_from_this();
}

void ReadRound::add(const Question& question, std::span<std::byte> into) {
  DFS_ASSERT(first_.size() < first_.capacity());
  const std::size_t piece = first_.size();
  prepare(first_.emplace_back(), question, piece, into);
}

void ReadRound::start() {
  {
    LockGuard lock(mutex_);
    pieces_.assign(first_.size(), Piece{.open = 1});
    undecided_ = first_.size();
  }
  for (Attempt& attempt : first_) attempt.question.disk->submit(attempt.request);
}

void ReadRound::ask_also(std::size_t piece, const Question& question, std::size_t size_bytes) {
  auto fresh = std::make_unique<Attempt>();
  Attempt& attempt = *fresh;
  attempt.own_memory = Buffer{size_bytes};
  prepare(attempt, question, piece, attempt.own_memory.span());
  {
    LockGuard lock(mutex_);
    if (pieces_[piece].decided) return;  // meanwhile; `fresh` goes, and lets go of us
    ++pieces_[piece].open;
    further_.push_back(std::move(fresh));
  }
  question.disk->submit(attempt.request);
}

void ReadRound::decide(Piece& piece) {
  piece.decided = true;
  --undecided_;
}

void ReadRound::completed(scheduler::IoRequest& request) {
  auto& attempt = *static_cast<Attempt*>(request.owner);
  attempt.round->ended(attempt);
}

void ReadRound::ended(Attempt& attempt) {
  // Dies last: it may be all that keeps us.
  const std::shared_ptr<void> self = std::move(attempt.request.memory);
  std::coroutine_handle<> reader;
  {
    LockGuard lock(mutex_);
    attempt.ended = true;
    Piece& piece = pieces_[attempt.piece];
    --piece.open;
    const bool good = attempt.request.error.code == Code::kOk;
    if (!piece.decided && (good || piece.open == 0)) {
      decide(piece);
      if (undecided_ == 0) reader = std::exchange(waiting_, {});
    }
  }
  if (reader) reader.resume();
}

bool ReadRound::suspend(std::coroutine_handle<> handle) {
  assert_no_mutex_held();
  LockGuard lock(mutex_);
  if (undecided_ == 0 || overdue_) return false;
  waiting_ = handle;
  return true;
}

bool ReadRound::woken() {
  LockGuard lock(mutex_);
  overdue_ = false;
  return undecided_ == 0;
}

void ReadRound::overdue() {
  std::coroutine_handle<> reader;
  {
    LockGuard lock(mutex_);
    if (undecided_ == 0) return;
    overdue_ = true;
    reader = std::exchange(waiting_, {});
  }
  if (reader) executor_.post(reader);
}

bool ReadRound::is_decided() const {
  LockGuard lock(mutex_);
  return undecided_ == 0;
}

std::vector<std::size_t> ReadRound::undecided() const {
  std::vector<std::size_t> out;
  LockGuard lock(mutex_);
  for (std::size_t i = 0; i < pieces_.size(); ++i) {
    if (!pieces_[i].decided) out.push_back(i);
  }
  return out;
}

std::vector<ReadRound::Asked> ReadRound::asked(std::size_t piece) const {
  std::vector<Asked> out;
  LockGuard lock(mutex_);
  const auto add = [&out](const Attempt& attempt) {
    Asked& asked = out.emplace_back();
    asked.place = attempt.question.place;
    asked.disk = attempt.question.disk;
    asked.ended = attempt.ended;
    if (!attempt.ended) return;
    asked.error = attempt.request.error;
    if (asked.error.code == Code::kOk) {
      asked.received = {attempt.request.data, attempt.request.size_bytes};
    }
  };
  add(first_[piece]);
  for (const auto& attempt : further_) {
    if (attempt->piece == piece) add(*attempt);
  }
  return out;
}

bool ReadRound::memory_is_free() const {
  LockGuard lock(mutex_);
  return std::ranges::all_of(first_, [](const Attempt& attempt) {
    return attempt.ended && attempt.request.error.code != Code::kDiskGone;
  });
}

}  // namespace dynamicfs::extent
