#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include "base/log.hpp"

int main(int argc, char** argv) {
  // Tests provoke warnings on purpose; only errors are worth a line there.
  dynamicfs::set_log_level(dynamicfs::LogLevel::kError);
  doctest::Context context;
  context.applyCommandLine(argc, argv);
  return context.run();
}
