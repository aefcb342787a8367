// The setuid and setgid bits of a file, when its data changes: they go unless it is root who changes it.
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/uio.h>

#include <cstring>

#include "tests/posix/world.hpp"

namespace posix {
namespace {

constexpr const char* kGroup = "setid";

struct Way {
  const char* words;
  bool changes;  // the data: the bits go
  Outcome (*change)(const std::string& name);
};

UniqueFd for_writing(const std::string& name) { return UniqueFd{::open(name.c_str(), O_RDWR)}; }

constexpr Way kWays[] = {
    {"write", true,
     [](const std::string& name) -> Outcome { return ::write(for_writing(name).get(), "x", 1); }},
    {"write of nothing", false,
     [](const std::string& name) -> Outcome { return ::write(for_writing(name).get(), "x", 0); }},
    {"pwrite", true,
     [](const std::string& name) -> Outcome {
       return ::pwrite(for_writing(name).get(), "x", 1, 9000);
     }},
    {"pwritev2 with RWF_DSYNC", true,
     [](const std::string& name) -> Outcome {
       char byte = 'x';
       const iovec piece{.iov_base = &byte, .iov_len = 1};
       return ::pwritev2(for_writing(name).get(), &piece, 1, 0, RWF_DSYNC);
     }},
    {"write with O_APPEND", true,
     [](const std::string& name) -> Outcome {
       const UniqueFd fd{::open(name.c_str(), O_WRONLY | O_APPEND)};
       return ::write(fd.get(), "x", 1);
     }},
    {"write with O_DIRECT", true,
     [](const std::string& name) -> Outcome {
       const UniqueFd fd{::open(name.c_str(), O_WRONLY | O_DIRECT)};
       alignas(4096) static char block[4096];
       return ::write(fd.get(), block, sizeof block);
     }},
    {"truncate", true,
     [](const std::string& name) -> Outcome { return ::truncate(name.c_str(), 3); }},
    {"truncate to its size", true,
     [](const std::string& name) -> Outcome { return ::truncate(name.c_str(), 5000); }},
    {"ftruncate", true,
     [](const std::string& name) -> Outcome {
       return ::ftruncate(for_writing(name).get(), 10000);
     }},
    {"open with O_TRUNC", true,
     [](const std::string& name) -> Outcome {
       return UniqueFd{::open(name.c_str(), O_WRONLY | O_TRUNC)}.get();
     }},
    {"fallocate", true,
     [](const std::string& name) -> Outcome {
       return ::fallocate(for_writing(name).get(), 0, 0, 20000);
     }},
    {"fallocate that punches a hole", true,
     [](const std::string& name) -> Outcome {
       return ::fallocate(for_writing(name).get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
                          4096);
     }},
    {"copy_file_range", true,
     [](const std::string& name) -> Outcome {
       const UniqueFd source{::open("source", O_RDONLY)};
       return ::copy_file_range(source.get(), nullptr, for_writing(name).get(), nullptr, 3, 0);
     }},
    {"sendfile", true,
     [](const std::string& name) -> Outcome {
       const UniqueFd source{::open("source", O_RDONLY)};
       return ::sendfile(for_writing(name).get(), source.get(), nullptr, 3);
     }},
    {"read", false,
     [](const std::string& name) -> Outcome {
       char byte;
       return ::read(for_writing(name).get(), &byte, 1);
     }},
    {"a change of its times", false,
     [](const std::string& name) -> Outcome {
       return ::utimensat(AT_FDCWD, name.c_str(), nullptr, 0);
     }},
    {"rename", false,
     [](const std::string& name) -> Outcome { return ::rename(name.c_str(), name.c_str()); }},
};

CASE("ways to change a file") {
  require(::chmod(".", 0777), "chmod");
  const std::string source = file_with("abc", 0644);
  require(::rename(source.c_str(), "source"), "rename");
  for (const Way& way : kWays) {
    for (const mode_t before : {0666U, 02666U, 02676U, 04666U, 04777U, 06666U, 06777U, 07777U}) {
      for (const bool root : {true, false}) {
        const About about{fmt::format("{} by {}", way.words, root ? "root" : "anybody")};
        const std::string name = file_with(pattern(5000));
        require(::chmod(name.c_str(), before), "chmod");
        Outcome done = 0;
        if (root) {
          done = way.change(name);
        } else {
          const As alice{kAlice, kAlices};
          done = way.change(name);
        }
        if (before == 0666) works(done, "works");
        mode_t wanted = before;
        if (way.changes && !root) wanted &= ~static_cast<mode_t>(S_ISUID | S_ISGID);
        expect(octal(wanted), mode(name),
               fmt::format("of a file of mode {} leaves", octal(before)));
      }
    }
  }
}

CASE("members of the group") {
  // A setgid bit without permission to execute is no privilege: members of the group leave it.
  for (const mode_t before : {02666U, 02676U}) {
    const std::string name = file_with("text");
    require(::chown(name.c_str(), kBob, kShared), "chown");
    require(::chmod(name.c_str(), before), "chmod");
    {
      const As alice{kAlice, kAlices, {kShared}};
      require(::write(for_writing(name).get(), "x", 1), "write");
    }
    expect(before == 02666U ? "2666" : "0676", mode(name),
           fmt::format("write by one of the group to a file of mode {} leaves", octal(before)));
  }
}

CASE("mapped files") {
  const std::string name = file_with(pattern(5000));
  require(::chmod(name.c_str(), 06777), "chmod");
  {
    const As alice{kAlice, kAlices};
    const UniqueFd fd = for_writing(name);
    void* const memory = ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
    require(memory == MAP_FAILED ? -1 : 0, "mmap");
    std::memset(memory, 'x', 10);
    works(::msync(memory, 4096, MS_SYNC), "msync of what anybody has written to a mapping");
  }
  expect("6777", mode(name), "a write to a mapping leaves the mode");
}

CASE("new files in setgid directories") {
  const std::string shared = new_directory(0777);
  require(::chown(shared.c_str(), 0, kShared), "chown");
  require(::chmod(shared.c_str(), 02777), "chmod");
  ::umask(0);
  for (const bool member : {false, true}) {
    const About about{member ? "by one of the group" : "by another"};
    const std::string executable = shared + "/" + fresh();
    const std::string plain = shared + "/" + fresh();
    const std::string node = shared + "/" + fresh();
    {
      const As alice{kAlice, kAlices, member ? std::vector<gid_t>{kShared} : std::vector<gid_t>{}};
      UniqueFd{::open(executable.c_str(), O_CREAT | O_RDWR, 02775)};
      UniqueFd{::open(plain.c_str(), O_CREAT | O_RDWR, 02664)};
      require(::mknod(node.c_str(), S_IFREG | 02775, 0), "mknod");
    }
    expect(member ? "2775" : "0775", mode(executable), "O_CREAT of mode 02775 makes");
    expect("2664", mode(plain), "O_CREAT of mode 02664 makes");
    expect(member ? "2775" : "0775", mode(node), "mknod of mode 02775 makes");
  }
}

}  // namespace
}  // namespace posix
