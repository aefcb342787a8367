#include "fs/alarm.hpp"

#include <fmt/format.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <vector>

#include "base/log.hpp"
#include "base/unique_fd.hpp"
#include "fs/metric_values.hpp"
#include "fs/status_screen.hpp"

namespace dynamicfs::fs {
namespace {

constexpr std::chrono::seconds kEvery{3};

// What is the same as long as nothing has to be told.
std::string key_of(const Json& status) {
  std::string key = fmt::format("{} {}", static_cast<int>(exit_code_of(status)),
                                text_of(status.value("pool", Json::object()), "state"));
  for (const Json& disk : status.value("disks", Json::array()))
    key += fmt::format(" {}:{}", disk.value("id", 0), text_of(disk, "state"));
  return key;
}

UniqueFd input_of(const std::string& text) {
  UniqueFd file{::memfd_create("dynamicfs-alarm", MFD_CLOEXEC)};
  if (!file) return file;
  for (std::size_t at = 0; at < text.size();) {
    const ssize_t written = ::write(file.get(), text.data() + at, text.size() - at);
    if (written <= 0) break;
    at += static_cast<std::size_t>(written);
  }
  ::lseek(file.get(), 0, SEEK_SET);
  return file;
}

}  // namespace

Alarm::Alarm(std::string command, std::function<Json()> status)
    : command_(std::move(command)), status_(std::move(status)), thread_([this] { watch(); }) {}

Alarm::~Alarm() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  stop_asked_.notify_all();
  thread_.join();
}

void Alarm::watch() {
  std::unique_lock lock(mutex_);
  while (!stop_) {
    lock.unlock();
    look();
    lock.lock();
    stop_asked_.wait_for(lock, kEvery, [this] { return stop_; });
  }
}

void Alarm::look() {
  if (child_ != 0) {
    int result = 0;
    if (::waitpid(child_, &result, WNOHANG) == 0) return;
    if (result != 0) log_warning("alarm: {} has ended with {}", command_, WEXITSTATUS(result));
    child_ = 0;
  }
  const Json status = status_();
  const std::string key = key_of(status);
  if (key == key_) return;
  const std::string state = text_of(status.value("pool", Json::object()), "state");
  const bool begins_well = key_.empty() && exit_code_of(status) == ExitCode::kOk;
  key_ = key;
  if (!begins_well) tell(status, state, state_);
  state_ = state;
}

void Alarm::tell(const Json& status, const std::string& state, const std::string& before) {
  const Json pool = status.value("pool", Json::object());
  std::vector<std::string> words;
  for (char** word = ::environ; *word != nullptr; ++word) words.emplace_back(*word);
  words.push_back("DYNAMICFS_MOUNTPOINT=" +
                  text_of(status.value("daemon", Json::object()), "mountpoint"));
  words.push_back("DYNAMICFS_POOL=" + text_of(pool, "uuid"));
  words.push_back("DYNAMICFS_LABEL=" + text_of(pool, "label"));
  words.push_back("DYNAMICFS_STATE=" + state);
  words.push_back("DYNAMICFS_STATE_BEFORE=" + before);
  words.push_back(fmt::format("DYNAMICFS_EXIT={}", static_cast<int>(exit_code_of(status))));
  std::vector<char*> environment;
  for (std::string& word : words) environment.push_back(word.data());
  environment.push_back(nullptr);
  std::string program = command_;
  std::string argument = state;
  char* arguments[] = {program.data(), argument.data(), nullptr};

  const UniqueFd input = input_of(status_screen(status));
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  sigset_t none;
  sigset_t usual;
  ::sigemptyset(&none);
  ::sigfillset(&usual);
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawnattr_init(&attributes);
  if (input) ::posix_spawn_file_actions_adddup2(&actions, input.get(), STDIN_FILENO);
  ::posix_spawn_file_actions_adddup2(&actions, STDERR_FILENO, STDOUT_FILENO);
  ::posix_spawn_file_actions_addchdir_np(&actions, "/");
  ::posix_spawnattr_setsigmask(&attributes, &none);
  ::posix_spawnattr_setsigdefault(&attributes, &usual);
  ::posix_spawnattr_setpgroup(&attributes, 0);
  ::posix_spawnattr_setflags(
      &attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);
  const int failed = ::posix_spawn(&child_, command_.c_str(), &actions, &attributes, arguments,
                                   environment.data());
  ::posix_spawnattr_destroy(&attributes);
  ::posix_spawn_file_actions_destroy(&actions);
  if (failed != 0) {
    child_ = 0;
    log_warning("alarm: {} cannot be run: {}", command_, std::strerror(failed));
    return;
  }
  log_info("alarm: the pool is {}, {} is told", state, command_);
}

}  // namespace dynamicfs::fs
