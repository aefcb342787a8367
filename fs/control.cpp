#include "fs/control.hpp"

#include <fmt/format.h>
#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <optional>
#include <set>

#include "base/log.hpp"

namespace dynamicfs::fs {
namespace {

constexpr std::size_t kRequestBytesMax = 16384;
// A peer that connects and says nothing may not keep the next one waiting longer.
constexpr int kRequestMillisecondsMax = 2000;

std::optional<sockaddr_un> address_of(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) return std::nullopt;
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  return address;
}

UniqueFd new_socket() { return UniqueFd{::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)}; }

int connect_to(const UniqueFd& socket, const std::string& path) {
  const auto address = address_of(path);
  if (!address) return ENAMETOOLONG;
  if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&*address), sizeof *address) != 0) {
    return errno;
  }
  return 0;
}

bool send_all(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t sent = ::send(fd, text.data(), text.size(), MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent <= 0) return false;
    text.remove_prefix(static_cast<std::size_t>(sent));
  }
  return true;
}

// One line, or nothing: closed, too long, or too slow.
std::optional<std::string> receive_request(int fd) {
  std::string line;
  while (line.size() < kRequestBytesMax) {
    pollfd waiting{.fd = fd, .events = POLLIN, .revents = 0};
    if (::poll(&waiting, 1, kRequestMillisecondsMax) <= 0) return std::nullopt;
    char buffer[512];
    const ssize_t got = ::recv(fd, buffer, sizeof buffer, 0);
    if (got <= 0) return std::nullopt;
    line.append(buffer, static_cast<std::size_t>(got));
    if (const std::size_t end = line.find('\n'); end != line.npos) return line.substr(0, end);
  }
  return std::nullopt;
}

// Of a socket's two ends each looks who the other is.
bool is_root_or_us(int connection) {
  ucred peer{};
  socklen_t size = sizeof peer;
  if (::getsockopt(connection, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) return false;
  return peer.uid == 0 || peer.uid == ::geteuid();
}

// Nobody else can have put anything there.
bool is_ours_alone(const std::string& directory) {
  struct stat info {};
  return ::lstat(directory.c_str(), &info) == 0 && S_ISDIR(info.st_mode) &&
         info.st_uid == ::geteuid() && (info.st_mode & (S_IWGRP | S_IWOTH)) == 0;
}

// Of the session of an ordinary user, or "".
std::string runtime_directory() {
  const char* const runtime = std::getenv("XDG_RUNTIME_DIR");
  return runtime == nullptr || ::geteuid() == 0 ? "" : runtime;
}

}  // namespace

std::string control_directory() {
  if (::geteuid() == 0) return "/run/dynamicfs";
  if (const std::string runtime = runtime_directory(); !runtime.empty()) {
    return runtime + "/dynamicfs";
  }
  // Without a session of systemd; only a directory that is ours and closed to others will do.
  return fmt::format("/tmp/dynamicfs-{}", ::geteuid());
}

Outcome<void> check_control_directory() {
  const std::string runtime = runtime_directory();
  if (runtime.empty()) return {};
  // By the name of a link, too: the user says where it is.
  if (runtime.starts_with('/') && is_ours_alone(runtime + "/.")) return {};
  return Refusal{
      ExitCode::kPermission,
      fmt::format("XDG_RUNTIME_DIR is {}, which is not a directory that only you can write to.",
                  runtime),
      "su and sudo may have kept it from another user. Log in as the user it is to be ('su -', "
      "'sudo -i'), or run 'unset XDG_RUNTIME_DIR' first."};
}

void ControlReply::send(const Json& answer) {
  // A peer that has gone needs no answer. Names of files need not be valid UTF-8.
  send_all(connection_.get(), answer.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n");
}

void ControlReply::refuse(const Refusal& why) {
  send({{"ok", false},
        {"error", why.what},
        {"remedy", why.remedy},
        {"code", static_cast<int>(why.code)}});
}

ControlServer::ControlServer(std::string path, UniqueFd listener, UniqueFd stop_event,
                             Handler handler)
    : path_(std::move(path)),
      listener_(std::move(listener)),
      stop_event_(std::move(stop_event)),
      handler_(std::move(handler)),
      thread_([this] { serve(); }) {}

Outcome<std::unique_ptr<ControlServer>> ControlServer::start(const Uuid& pool, Handler handler) {
  TRY(check_control_directory());
  const std::string directory = control_directory();
  if (::mkdir(directory.c_str(), ::geteuid() == 0 ? 0755 : 0700) != 0 && errno != EEXIST) {
    return failed(fmt::format("{} cannot be made: {}.", directory, std::strerror(errno)), "");
  }
  if (!is_ours_alone(directory)) {
    return failed(fmt::format("{} is not a directory of yours.", directory),
                  "The socket by which the daemon is asked has to be safe from others.");
  }
  std::string path = directory + "/" + pool.text() + ".sock";
  const auto address = address_of(path);
  if (!address) {
    return failed(fmt::format("The name of the control socket is too long: {}.", path),
                  "Set XDG_RUNTIME_DIR to a shorter one.");
  }
  UniqueFd listener = new_socket();
  UniqueFd stop_event{::eventfd(0, EFD_CLOEXEC)};
  if (!listener || !stop_event) {
    return failed(fmt::format("The control socket {} cannot be made.", path), "");
  }
  const UniqueFd probe = new_socket();
  if (connect_to(probe, path) == 0) {
    return Refusal{ExitCode::kAlreadyMounted,
                   fmt::format("Another daemon serves the pool {}.", pool.text()),
                   "'dynamicfs status' shows where it is mounted."};
  }
  ::unlink(path.c_str());
  // The mode comes from the umask; there must be no moment in which others could connect.
  const mode_t old_mask = ::umask(0177);
  const int bound =
      ::bind(listener.get(), reinterpret_cast<const sockaddr*>(&*address), sizeof *address);
  const int why = errno;
  ::umask(old_mask);
  if (bound != 0 || ::listen(listener.get(), 16) != 0) {
    return failed(fmt::format("The control socket {} cannot be made: {}.", path,
                              std::strerror(bound != 0 ? why : errno)),
                  "");
  }
  return std::unique_ptr<ControlServer>{new ControlServer(
      std::move(path), std::move(listener), std::move(stop_event), std::move(handler))};
}

ControlServer::~ControlServer() { stop(); }

void ControlServer::stop() {
  if (!thread_.joinable()) return;
  ::unlink(path_.c_str());
  const std::uint64_t one = 1;
  [[maybe_unused]] const auto told = ::write(stop_event_.get(), &one, sizeof one);
  thread_.join();
}

void ControlServer::serve() {
  ::pthread_setname_np(::pthread_self(), "dfs-control");
  while (true) {
    pollfd waiting[2] = {{.fd = listener_.get(), .events = POLLIN, .revents = 0},
                         {.fd = stop_event_.get(), .events = POLLIN, .revents = 0}};
    if (::poll(waiting, 2, -1) < 0) continue;
    if (waiting[1].revents != 0) return;
    UniqueFd connection{::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC)};
    if (!connection) continue;
    if (!is_root_or_us(connection.get())) continue;
    const auto line = receive_request(connection.get());
    if (!line) continue;
    const Json request = Json::parse(*line, nullptr, false);
    ControlReply reply{std::move(connection)};
    if (!request.is_object() || !request.contains("command") || !request["command"].is_string()) {
      reply.refuse("not a request");
      continue;
    }
    handler_(request, std::move(reply));
  }
}

void ControlServer::keep(UniqueFd connection) {
  LockGuard lock(mutex_);
  kept_.push_back(std::move(connection));
}

void ControlServer::say_last_words(const std::string& error,
                                   const std::vector<std::string>& left_behind) {
  std::vector<UniqueFd> kept;
  {
    LockGuard lock(mutex_);
    kept.swap(kept_);
  }
  const Json last{{"finished", true}, {"error", error}, {"left_behind", left_behind}};
  const std::string words = last.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
  for (const UniqueFd& connection : kept) send_all(connection.get(), words);
}

// The command's side.

Outcome<ControlClient> ControlClient::connect(const std::string& socket) {
  UniqueFd connection = new_socket();
  if (!connection)
    return failed(fmt::format("No socket can be made: {}.", std::strerror(errno)), "");
  const int error = connect_to(connection, socket);
  if (error == EACCES || error == EPERM) {
    return Refusal{ExitCode::kPermission,
                   fmt::format("You may not ask the daemon behind {}.", socket),
                   "Ask as the user who mounted the pool: for most pools, with sudo."};
  }
  if (error != 0) {
    return Refusal{ExitCode::kNotMounted, fmt::format("No daemon answers at {}.", socket), ""};
  }
  if (!is_root_or_us(connection.get())) {
    return Refusal{ExitCode::kPermission,
                   fmt::format("What answers at {} is somebody else's.", socket),
                   "It is not believed."};
  }
  return ControlClient{std::move(connection)};
}

Outcome<Json> ControlClient::ask(const std::string& command, Patience patience) {
  return ask_with({{"command", command}}, patience);
}

Outcome<Json> ControlClient::ask_with(const Json& request, Patience patience) {
  const std::string line = request.dump(-1, ' ', false, Json::error_handler_t::replace);
  if (!send_all(connection_.get(), line + "\n")) {
    return Refusal{ExitCode::kNotMounted, "The daemon has closed the connection.", ""};
  }
  Json answer = TRY(next_line(patience));
  if (!answer.value("ok", false)) {
    // A refusal with a remedy is for the user as it is.
    if (answer.contains("remedy")) {
      return Refusal{static_cast<ExitCode>(answer.value("code", 3)), answer.value("error", ""),
                     answer.value("remedy", "")};
    }
    return failed(fmt::format("The daemon says: {}.", answer.value("error", "no reason given")),
                  "");
  }
  return answer;
}

Outcome<Json> ControlClient::next_line(Patience patience) {
  while (true) {
    if (const std::size_t end = received_.find('\n'); end != received_.npos) {
      Json line = Json::parse(received_.substr(0, end), nullptr, false);
      received_.erase(0, end + 1);
      if (!line.is_object()) return failed("The daemon's answer makes no sense.", "");
      return line;
    }
    pollfd waiting{.fd = connection_.get(), .events = POLLIN, .revents = 0};
    if (patience && ::poll(&waiting, 1, static_cast<int>(patience->count())) == 0) {
      return failed("The daemon does not answer.", "Its log says what it is doing.");
    }
    char buffer[16384];
    const ssize_t got = ::recv(connection_.get(), buffer, sizeof buffer, 0);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) {
      return Refusal{ExitCode::kNotMounted, "The daemon has ended without an answer.",
                     "Its log says why."};
    }
    received_.append(buffer, static_cast<std::size_t>(got));
  }
}

RunningDaemons running_daemons() {
  // One that is stopped or stuck must not keep the others from being seen.
  constexpr std::chrono::milliseconds kPatience{3000};
  // Root's daemons too: that they may not be asked is worth saying.
  std::set<std::string> directories = {"/run/dynamicfs"};
  if (check_control_directory()) directories.insert(control_directory());
  // The daemon may have been started in a session, and be asked from elsewhere. Who answers is looked at.
  if (::geteuid() != 0) {
    directories.insert(fmt::format("/run/user/{}/dynamicfs", ::geteuid()));
    directories.insert(fmt::format("/tmp/dynamicfs-{}", ::geteuid()));
  }
  RunningDaemons daemons;
  for (const std::string& directory : directories) {
    std::error_code error;
    for (const auto& entry : std::filesystem::directory_iterator(directory, error)) {
      if (entry.path().extension() != ".sock") continue;
      const std::string socket = entry.path().string();
      auto client = ControlClient::connect(socket);
      if (!client) {
        daemons.denied |= client.error().code == ExitCode::kPermission;
        continue;
      }
      auto hello = client->ask("hello", kPatience);
      if (!hello) {
        // Not one that has just ended: its socket takes connections until the kernel is done with it.
        daemons.silent |= hello.error().code != ExitCode::kNotMounted;
        continue;
      }
      daemons.answering.push_back({.socket = socket,
                                   .pool = hello->value("pool", ""),
                                   .label = hello->value("label", ""),
                                   .pid = hello->value("pid", 0),
                                   .mountpoint = hello->value("mountpoint", ""),
                                   .device = hello->value("device", ""),
                                   .disks = hello->value("disks", std::vector<std::string>{})});
    }
  }
  return daemons;
}

}  // namespace dynamicfs::fs
