#include "tests/fuzz/block_history.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace dynamicfs::fuzz {
namespace {

// Whether `found` begins as `newer` and goes on as `older`.
bool is_mixture(const Bytes& found, const Bytes& newer, const Bytes& older, std::size_t length) {
  const auto end = found.begin() + static_cast<std::ptrdiff_t>(length);
  const auto split = std::mismatch(found.begin(), end, newer.begin()).first;
  return std::equal(split, end, older.begin() + (split - found.begin()));
}

}  // namespace

Bytes BlockHistory::block(const Bytes& bytes, std::uint64_t number) {
  Bytes one(kBlock);
  const std::uint64_t at = number * kBlock;
  if (at < bytes.size()) {
    std::copy_n(bytes.begin() + static_cast<std::ptrdiff_t>(at),
                std::min<std::uint64_t>(kBlock, bytes.size() - at), one.begin());
  }
  return one;
}

void BlockHistory::before(const Bytes& bytes, std::uint64_t at, std::uint64_t end) {
  for (std::uint64_t number = at / kBlock; number * kBlock < end; ++number) {
    std::vector<Bytes>& states = states_[number];
    if (!states.empty()) continue;
    states.push_back(block(bytes, number));
    ++states_count_;
  }
}

void BlockHistory::after(const Bytes& bytes, std::uint64_t at, std::uint64_t end) {
  for (std::uint64_t number = at / kBlock; number * kBlock < end; ++number) {
    states_[number].push_back(block(bytes, number));
    ++states_count_;
  }
  size_min_ = std::min<std::uint64_t>(size_min_, bytes.size());
  size_max_ = std::max<std::uint64_t>(size_max_, bytes.size());
}

void BlockHistory::settle(const Bytes& bytes) {
  states_.clear();
  states_count_ = 0;
  size_min_ = size_max_ = bytes.size();
}

std::string BlockHistory::check(const Bytes& found, const Bytes& latest) const {
  if (found.size() < size_min_ || found.size() > size_max_) {
    return fmt::format("{} bytes, {} to {} may be", found.size(), size_min_, size_max_);
  }
  for (std::uint64_t number = 0; number * kBlock < found.size(); ++number) {
    const Bytes here = block(found, number);
    const std::size_t length = std::min<std::uint64_t>(kBlock, found.size() - number * kBlock);
    const auto known = states_.find(number);
    const std::vector<Bytes> untouched{block(latest, number)};
    const std::vector<Bytes>& states = known == states_.end() ? untouched : known->second;
    bool legal = false;
    for (std::size_t i = states.size(); i-- > 0 && !legal;) {
      legal = std::equal(here.begin(), here.begin() + static_cast<std::ptrdiff_t>(length),
                         states[i].begin());
      legal = legal || (i > 0 && is_mixture(here, states[i], states[i - 1], length));
    }
    if (legal) continue;
    const auto newest = std::mismatch(here.begin(), here.end(), states.back().begin());
    const auto at = static_cast<std::uint64_t>(newest.first - here.begin());
    return fmt::format(
        "block {} (window {}) is none of its {} states since the last fsync; at byte {} of it: {}, "
        "where the newest has {}",
        number, number * kBlock / kWindow, states.size(), at, claim(here, at),
        claim(states.back(), at));
  }
  return "";
}

}  // namespace dynamicfs::fuzz
