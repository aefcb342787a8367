// What goes to a terminal.
#include "fs/text_table.hpp"

#include <doctest/doctest.h>

namespace dynamicfs::fs {
namespace {

TEST_SUITE("text_table") {
  TEST_CASE("a file name cannot talk to the terminal") {
    CHECK(printable("holiday/Zo\u00eb 1.jpg") == "holiday/Zo\u00eb 1.jpg");
    CHECK(printable("a\x1b[31mb\nc\x7f") == "a\\033[31mb\\012c\\177");
    CHECK(printable("one\\two") == "one\\\\two");
    CHECK(printable("\xc2\x9b"
                    "31m") == "\xc2\\23331m");
    CHECK(printable("\xff\xc2") == "\xff\xc2");
    CHECK(printable("") == "");
  }
}

}  // namespace
}  // namespace dynamicfs::fs
