#include "tests/fuzz/worker.hpp"

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <unistd.h>

#include <cstring>

#include "base/unique_fd.hpp"

namespace dynamicfs::fuzz {
namespace {

sigjmp_buf bus_error;
void on_bus_error(int) { siglongjmp(bus_error, 1); }

}  // namespace

// Nothing here needs a destructor.
bool copy_mapped(void* to, const void* from, std::size_t length) {
  struct sigaction action {};
  action.sa_handler = on_bus_error;
  ::sigaction(SIGBUS, &action, nullptr);
  if (sigsetjmp(bus_error, 1) != 0) return false;
  std::memcpy(to, from, length);
  return true;
}

std::string Worker::error_text(int error) {
  const char* name = strerrorname_np(error);
  return name != nullptr ? name : std::to_string(error);
}

void Worker::sync_directory(const std::string& path) const {
  for (const std::string& one : {path, path + "/.."}) {
    const UniqueFd fd{::open(one.c_str(), O_RDONLY | O_DIRECTORY)};
    expect(fd.get() >= 0, "open of " + one);
    expect(::fsync(fd.get()) == 0, "fsync of " + one);
  }
}

}  // namespace dynamicfs::fuzz
