"""Things for programs to chew on: file trees, a C project, a git repository. All follow from a
seed.
"""

import os
import random

from harness import command

GIT = (
    "git",
    "-c",
    "user.name=Test",
    "-c",
    "user.email=test@example.org",
    "-c",
    "commit.gpgsign=false",
    "-c",
    "init.defaultBranch=main",
    "-c",
    "protocol.file.allow=always",
    "-c",
    "gc.auto=0",
    "-c",
    "maintenance.auto=false",
)
GIT_ENVIRONMENT = {
    **os.environ,
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_TERMINAL_PROMPT": "0",
}


def git(*arguments, cwd, **how):
    return command(*GIT, *arguments, cwd=cwd, env=GIT_ENVIRONMENT, **how)


def file_sizes(rng, count, size_max_bytes):
    """Sizes as in real trees: mostly small, some empty, a few large, hardly ever a whole block."""
    return [int(size_max_bytes ** rng.random()) - 1 for _ in range(count)]


def make_tree(root, seed, file_count=200, size_max_bytes=300_000, with_specials=False):
    """Fills a new directory with nested files, links and odd names.

    `with_specials` adds what rsync -aHAX and tar must carry: hard links, a fifo, a sparse file,
    extended attributes, unusual modes.
    """
    rng = random.Random(seed)
    directories = [root]
    os.mkdir(root)
    for number in range(file_count // 10):
        directories.append(os.path.join(rng.choice(directories[-5:]), f"folder {number}"))
        os.mkdir(directories[-1])
    paths = []
    for number, size_bytes in enumerate(file_sizes(rng, file_count, size_max_bytes)):
        paths.append(
            os.path.join(
                rng.choice(directories), f"file-{number}.{rng.choice(('txt', 'bin', 'ü'))}"
            )
        )
        with open(paths[-1], "wb") as file:
            file.write(rng.randbytes(size_bytes))
    for number in range(file_count // 20):
        os.symlink(
            rng.choice(("nowhere", os.path.basename(paths[0]), "../..")),
            os.path.join(rng.choice(directories), f"link-{number}"),
        )
    if with_specials:
        _add_specials(root, rng, directories, paths)
    for path in paths + directories[::-1]:
        time_ns = rng.randrange(10**18, 17 * 10**17)
        os.utime(path, ns=(time_ns, time_ns))
    return paths


def _add_specials(root, rng, directories, paths):
    for number in range(10):
        os.link(rng.choice(paths), os.path.join(rng.choice(directories), f"hard-{number}"))
    os.mkfifo(os.path.join(root, "fifo"))
    with open(os.path.join(root, "sparse"), "wb") as file:
        file.seek(9_000_000)
        file.write(b"end")
    for path in rng.sample(paths, 5):
        os.setxattr(path, "user.note", rng.randbytes(40))
        os.chmod(path, rng.choice((0o400, 0o751, 0o666)))


def make_c_project(root, module_count=30):
    """A program of `module_count` modules with headers, built by ninja. It prints the sum of the
    modules' numbers.
    """
    os.makedirs(os.path.join(root, "src"))
    for number in range(module_count):
        body = f"int module_{number}(void) {{ return {number}; }}\n"
        filler = "".join(
            f"double table_{number}_{line}[] = {{{line}.5, {number}.25, 3.75}};\n"
            for line in range(200)
        )
        _write(root, f"src/module_{number}.c", f'#include "modules.h"\n{filler}{body}')
    _write(root, "src/modules.h", "".join(f"int module_{n}(void);\n" for n in range(module_count)))
    calls = " + ".join(f"module_{n}()" for n in range(module_count))
    _write(
        root,
        "src/main.c",
        f'#include <stdio.h>\n#include "modules.h"\n'
        f'int main(void) {{ printf("%d\\n", {calls}); return 0; }}\n',
    )
    objects = [f"module_{n}" for n in range(module_count)] + ["main"]
    rules = [
        "rule cc\n  command = cc -O1 -MD -MF $out.d -c $in -o $out\n  depfile = $out.d\n  deps = gcc\n",
        "rule link\n  command = cc $in -o $out\n",
    ]
    edges = [f"build out/{name}.o: cc src/{name}.c\n" for name in objects]
    edges.append(f"build out/program: link {' '.join(f'out/{name}.o' for name in objects)}\n")
    _write(root, "build.ninja", "".join(rules + edges))
    return sum(range(module_count))


def _write(root, name, text):
    with open(os.path.join(root, name), "w", encoding="utf-8") as file:
        file.write(text)


def make_repository(root, seed, commit_count=12):
    """A git repository with some history, a branch and a tag."""
    rng = random.Random(seed)
    os.makedirs(root)
    git("init", "-q", cwd=root)
    for number in range(commit_count):
        for _ in range(8):
            folder = os.path.join(root, f"folder-{rng.randrange(6)}")
            os.makedirs(folder, exist_ok=True)
            with open(os.path.join(folder, f"file-{rng.randrange(40)}"), "wb") as file:
                file.write(rng.randbytes(rng.randrange(20_000)).hex().encode())
        git("add", "--all", cwd=root)
        git("commit", "-q", "-m", f"change {number}", cwd=root)
    git("branch", "side", "HEAD~3", cwd=root)
    git("tag", "-a", "-m", "a tag", "v1", cwd=root)
