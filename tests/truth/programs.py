"""Programs under preset `shell`: builtins and externals, pipelines, scripts, and what changes files."""

from __future__ import annotations

from .scenarios import Scenario

SECRET = "fs.read <no>/secret.txt"


def _bash(
    name: str, script: str, *events: str, policy: str = "shell", monitored: tuple[str, ...] | None = None
) -> Scenario:
    return Scenario(f"bash: {name}", ("/usr/bin/bash", "-c", script), events, policy, monitored)


def _run(command: str, *events: str, policy: str = "shell", monitored: tuple[str, ...] | None = None) -> Scenario:
    return Scenario(f"run: {command}", tuple(command.split()), events, policy, monitored)


#: Enforced, it lists no directory of packages, which it does not see; not stopped, it goes on.
_GOES_ON = ("python3 -c 'print(1)' || true",)
QUIET = [
    _bash(text, text, monitored=("fs.* * x*",) if text in _GOES_ON else None)
    for text in (
        "true", "echo x", "echo x > <rw>/new; cat <rw>/new", "cat <ro>/a.txt | wc -l", "ls -l <ro>", "ls -la <rw>", "id", "whoami; true", "groups",
        "stat <ro>/a.txt", "cp <ro>/a.txt <rw>/b.txt", "mv <rw>/f.txt <rw>/f2.txt", "rm <rw>/f.txt", "mkdir -p <rw>/x/y", "touch <rw>/f.txt",
        "sed -i s/f/F/ <rw>/f.txt", "tar -C <ro> -cf <rw>/t.tar a.txt sub && tar -tf <rw>/t.tar", "find <ro>/sub -type f", "grep -r c <ro>/sub",
        "for i in 1 2 3; do echo $i; done | sort -r | head -1", "x=$(date +%s); test -n $x", "[ -e <rw>/absent ] || echo no", "cat < <ro>/a.txt",
        "chmod 600 <rw>/f.txt", "ln -s f.txt <rw>/l; readlink <rw>/l", "ln <rw>/f.txt <rw>/hard", "awk '{print $1}' <ro>/b.csv", "diff <ro>/a.txt <rw>/f.txt",
        "cd <rw> && pwd && ls", "source /dev/null", "sh <rw>/script.sh", "cat <<< here", "cat <(echo x)", "command -v ls", "type cat",
        "echo ~nosuch", "id nosuchuser", "cd <rw> && git init -q . && git status --short", "python3 -c 'print(1)' || true", "mktemp -d", "sleep 0; kill -0 $$",
        "trap 'echo x' EXIT; exit 0", "printf %s x | tee <rw>/t", "dd if=<ro>/a.txt of=<rw>/d status=none", "env | sort", "xargs echo < <ro>/a.txt",
    )
]  # fmt: skip

BUILTINS = [
    _bash("a file that is not granted", "read x < <no>/secret.txt", SECRET),
    _bash("a new file of a readable directory", "echo x > <ro>/new", "fs.create <ro>/new"),
    _bash("a file that can only be read", "echo x > <ro>/a.txt", "fs.write <ro>/a.txt"),
    _bash("a file to be appended to", "echo x >> <ro>/a.txt", "fs.write <ro>/a.txt"),
    _bash("a file read and written", "exec 3<> <ro>/a.txt", "fs.write <ro>/a.txt"),
    _bash("a file without overwriting", "set -C; echo x > <ro>/new", "fs.create <ro>/new"),
    _bash("a directory", "cd <no>", "fs.lookup <no> x3", monitored=("fs.lookup <no> x*",)),
    _bash("a test", "[ -e <no>/secret.txt ]", "fs.lookup <no>/secret.txt"),
    _bash("two tests", "[ -e <no>/secret.txt ]; [ -r <no>/data.json ]", "fs.lookup <no>/secret.txt", "fs.lookup <no>/data.json"),
    _bash("a script that is not granted", "source <no>/secret.txt", SECRET, monitored=("fs.read|fs.lookup <no>/secret.txt x*",)),
    _bash("a denied file", "read x < <ro>/den/s.txt", "fs.read <ro>/den/s.txt"),
    _bash("by a link out", "read x < <ro>/out", "fs.read <ro>/out|<no>/secret.txt"),
    _bash("by a link in a directory that is granted in full", "echo x > <rw>/out", "fs.write|fs.create <rw>/out|<no>/secret.txt"),
    _bash("three times", "for i in 1 2 3; do read x < <no>/secret.txt; done", f"{SECRET} x3"),
    _bash("two, after one another", "read x < <no>/secret.txt; read x < <no>/data.json", SECRET, "fs.read <no>/data.json"),
    _bash("in a subshell", "(read x < <no>/secret.txt)", SECRET),
    _bash("in the background", "read x < <no>/secret.txt & wait", SECRET),
    _bash("in a substitution", "x=$(< <no>/secret.txt)", SECRET),
    _bash("signal to the init", "kill -9 1", "process.signal *1*"),
    _bash("connect", "exec 3<> /dev/tcp/127.0.0.1/<closed>", "net.socket AF_INET/SOCK_STREAM"),
    _bash("a granted file that is not there", "echo x > <ro>/absent.txt", "fs.create <ro>/absent.txt", policy="shell-absent"),
    _bash("a granted file that is there", "echo x > <ro>/a.txt", policy="shell-present"),
    _bash("a granted file is removed", "rm -f <ro>/a.txt", "fs.delete <ro>/a.txt", policy="shell-present"),
]  # fmt: skip

EXTERNALS = [
    _run("/usr/bin/cat <no>/secret.txt", SECRET),
    _run("/usr/bin/cat <no>/secret.txt <no>/data.json", SECRET, "fs.read <no>/data.json"),
    _run("/usr/bin/cat <no>/absent"),
    _run("/usr/bin/head -1 <ro>/den/s.txt", "fs.read <ro>/den/s.txt"),
    _run("/usr/bin/cp <ro>/a.txt <ro>/copy", "fs.create <ro>/copy"),
    _run("/usr/bin/cp <no>/secret.txt <rw>/copy", "fs.lookup <no>/secret.txt", monitored=("fs.read|fs.lookup <no>/secret.txt x*",)),
    _run("/usr/bin/touch <ro>/new", "fs.create <ro>/new"),
    _run("/usr/bin/touch <ro>/a.txt", "fs.write <ro>/a.txt", "fs.metadata <ro>/a.txt", monitored=("fs.* <ro>/a.txt x*",)),
    _run("/usr/bin/mkdir <ro>/new", "fs.create <ro>/new"),
    _run("/usr/bin/mkdir -p <ro>/new", "fs.create <ro>/new"),
    _run("/usr/bin/rm <ro>/a.txt", "fs.delete <ro>/a.txt"),
    _run("/usr/bin/rm -f <ro>/a.txt", "fs.delete <ro>/a.txt"),
    _run("/usr/bin/rmdir <ro>/sub", "fs.delete <ro>/sub"),
    _run("/usr/bin/ln -s x <ro>/l", "fs.create <ro>/l"),
    _run("/usr/bin/chmod 600 <ro>/a.txt", "fs.metadata <ro>/a.txt"),
    _run("/usr/bin/mv <ro>/a.txt <ro>/b.txt", "fs.delete|fs.create <ro>/a.txt|<ro>/b.txt"),
    _run("/usr/bin/truncate -s 0 <ro>/a.txt", "fs.write <ro>/a.txt"),
    _run("/usr/bin/mkfifo <ro>/p", "fs.create <ro>/p"),
    _run("/usr/bin/tee <ro>/a.txt", "fs.write <ro>/a.txt"),
    _run("/usr/bin/ls <no>", "fs.lookup <no> x2", monitored=("fs.lookup|fs.read <no>* x*",)),
    _run("/usr/bin/stat <no>/secret.txt", "fs.lookup <no>/secret.txt"),
    _run("/usr/bin/readlink <no>/link", "fs.lookup <no>/link"),
    _run("/usr/bin/find <no>", "fs.lookup <no>", monitored=("fs.lookup|fs.read <no>* x*",)),
    _run("/usr/bin/grep x <no>/secret.txt", SECRET),
    _run("/usr/bin/grep -r x <no>", "fs.read|fs.lookup <no>", monitored=("fs.lookup|fs.read <no>* x*",)),
    _run("/usr/bin/sed -i s/o/O/ <ro>/a.txt", "fs.create <ro>/sed*", monitored=("fs.* <ro>/* x*",)),
    _run("/usr/bin/sed p <no>/secret.txt", SECRET),
    _run("/usr/bin/tar -cf <ro>/t.tar <rw>/f.txt", "fs.create <ro>/t.tar"),
    _run("/usr/bin/tar -tf <no>/secret.txt", SECRET),
    _run("/usr/bin/dd if=<no>/secret.txt of=/dev/null", SECRET),
    _run("/usr/bin/install <ro>/a.txt <ro>/i", "fs.create <ro>/i", monitored=("fs.* <ro>/i x*",)),
    _run("/usr/bin/sort -o <ro>/a.txt <rw>/f.txt", "fs.write <ro>/a.txt"),
    _run("/usr/bin/split <ro>/a.txt <ro>/part", "fs.create <ro>/partaa"),
    _run("/usr/bin/wc <no>/secret.txt", SECRET, "fs.lookup <no>/secret.txt", monitored=("fs.* <no>/secret.txt x*",)),
    _run("/usr/bin/awk 1 <no>/secret.txt", SECRET),
    _run("/usr/bin/diff <no>/secret.txt <ro>/a.txt", "fs.lookup <no>/secret.txt", monitored=("fs.lookup|fs.read <no>/secret.txt x*",)),
    _run("/usr/bin/env <rw>/script.sh", "process.exec <rw>/script.sh"),
    _run("/usr/bin/nice -n -5 true", "kernel.capability setpriority*"),
    _run("/usr/bin/git -C <no> status", "fs.lookup <no>"),
    _run("/usr/bin/git clone -q file://<no> <rw>/clone", "fs.lookup <no>*|fs.read <no>* x*"),
]  # fmt: skip

TOGETHER = [
    _bash("a pipeline whose first fails", "cat <no>/secret.txt | wc -l", SECRET),
    _bash("a pipeline whose last fails", "cat <ro>/a.txt | tee <ro>/new >/dev/null", "fs.create <ro>/new"),
    _bash("both fail", "cat <no>/secret.txt | tee <ro>/new", SECRET, "fs.create <ro>/new"),
    _bash("a script by its interpreter", "sh <ro>/script.sh", SECRET),
    _bash("a script by #!, not granted", "<ro>/script.sh", "process.exec <ro>/script.sh", monitored=("process.exec <ro>/script.sh", SECRET)),
    _bash("a program by its bare name, not granted", "perl -e 1", "fs.lookup /usr/bin/perl x*"),
    _bash("a program by its path, not granted", "/usr/bin/perl -e 1", "process.exec /usr/bin/perl", "fs.lookup /usr/bin/perl x*", monitored=("process.exec /usr/bin/perl",)),
    _bash("a program that is not there", "nosuchprogram"),
    _bash("xargs", "echo <no>/secret.txt | xargs cat", SECRET),
    _bash("find -exec", "find <ro>/sub -type f -exec cp {} <ro>/copy \\;", "fs.create <ro>/copy"),
    _bash("a loop of programs", "for f in secret.txt data.json; do cat <no>/$f; done", SECRET, "fs.read <no>/data.json"),
    _bash("cat five times", "for i in 1 2 3 4 5; do cat <no>/secret.txt; done", f"{SECRET} x5"),
    _bash("an allowed program, then a refusal", "cat <ro>/a.txt; cat <no>/secret.txt; cat <ro>/a.txt", SECRET),
    _bash("remove all of a directory", "rm -rf <ro>/sub", "fs.delete <ro>/sub/c.txt"),
    _bash("copy all of a directory", "cp -r <ro>/sub <ro>/sub2", "fs.create <ro>/sub2"),
    _bash("unpack into a readable directory", "tar -C <rw> -cf <rw>/t.tar f.txt; tar -C <ro> -xf <rw>/t.tar", "fs.create <ro>/f.txt", monitored=("fs.* <ro>/f.txt x*",)),
    _bash("move between grants", "mv <rw>/f.txt <two>/f.txt", "fs.create <two>/f.txt", policy="shell-two"),
    _bash("move out of a grant", "mv <rw>/f.txt <ro>/f.txt", "fs.create <ro>/f.txt", "fs.delete <ro>/f.txt", monitored=("fs.* <ro>/f.txt|<rw>/f.txt x*",)),
    _bash("move into a grant", "mv <ro>/a.txt <rw>/a.txt", "fs.delete <ro>/a.txt x2", monitored=("fs.* <ro>/a.txt|<rw>/a.txt|<ro> x*",)),
    _bash("a link across", "ln <ro>/a.txt <rw>/hard", "fs.create|fs.write|fs.read <rw>/hard|<ro>/a.txt"),
    _bash("directories on the way", "mkdir -p <rw>/x/y <ro>/sub <ro>/new", "fs.create <ro>/new"),
    _bash("names that are taken", "mkdir <ro>/sub; ln -s x <ro>/a.txt; mkfifo <ro>/a.txt; ln <rw>/f.txt <rw>/sub/g.txt"),
    _bash("a name that is taken and hidden", "mkdir <no>", "fs.create <no>", monitored=("fs.create <no>",)),
    _bash("an interpreter's file", "python3 -c 'open(\"<no>/secret.txt\")' 2>/dev/null || true", SECRET),
    _bash("python, three", "python3 -c '\nfor i in range(3):\n    try: open(\"<no>/secret.txt\")\n    except OSError: pass'", f"{SECRET} x3"),
    _bash("python, names", "python3 -c '\nimport os\nfor f in (os.mkdir, os.rmdir, os.unlink):\n    try: f(\"<ro>/sub\")\n    except OSError: pass'",
          "fs.delete <ro>/sub x2", monitored=("fs.delete <ro>/sub x*",)),
]  # fmt: skip

PROGRAMS: tuple[Scenario, ...] = (*QUIET, *BUILTINS, *EXTERNALS, *TOGETHER)
