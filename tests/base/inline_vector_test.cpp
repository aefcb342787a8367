// A vector that is short as a rule, against std::vector.
#include "base/inline_vector.hpp"

#include <doctest/doctest.h>

#include <numeric>
#include <vector>

using namespace dynamicfs;

namespace {

using Short = InlineVector<int, 4>;

std::vector<int> all(const Short& values) { return {values.begin(), values.end()}; }
std::vector<int> ascending(int count) {
  std::vector<int> values(static_cast<std::size_t>(count));
  std::iota(values.begin(), values.end(), 1);
  return values;
}
Short make(int count) {
  Short values;
  for (const int value : ascending(count)) values.emplace_back() = value;
  return values;
}

}  // namespace

TEST_SUITE("inline vector") {
  TEST_CASE("elements keep their order and values while it grows out of itself") {
    for (int count = 0; count < 20; ++count) CHECK(all(make(count)) == ascending(count));
  }

  TEST_CASE("a new element has the value of none") {
    Short values = make(4);
    values.clear();
    CHECK(values.empty());
    CHECK(values.emplace_back() == 0);
  }

  TEST_CASE("what is appended at once is as if appended one by one") {
    const std::vector<int> more = ascending(9);
    for (int count = 0; count < 9; ++count) {
      for (int appended = 0; appended <= 9; ++appended) {
        Short values = make(count);
        values.append(more.data(), static_cast<std::size_t>(appended));
        std::vector<int> expected = ascending(count);
        expected.insert(expected.end(), more.begin(), more.begin() + appended);
        CHECK(all(values) == expected);
      }
    }
  }

  TEST_CASE("a copy is another, a move leaves nothing behind") {
    for (const int count : {0, 3, 4, 5, 17}) {
      Short values = make(count);
      Short copy = values;
      copy.emplace_back() = 99;
      CHECK(all(values) == ascending(count));
      Short moved = std::move(values);
      CHECK(all(moved) == ascending(count));
      CHECK(values.empty());  // NOLINT(bugprone-use-after-move): that is the question
      values.emplace_back() = 5;
      CHECK(all(values) == std::vector<int>{5});
      moved = values;
      CHECK(all(moved) == std::vector<int>{5});
      moved = make(count);
      CHECK(all(moved) == ascending(count));
    }
  }

  TEST_CASE("it shrinks to what is asked for and never grows by that") {
    Short values = make(7);
    values.shrink(9);
    CHECK(all(values) == ascending(7));
    values.shrink(2);
    CHECK(all(values) == ascending(2));
  }
}
