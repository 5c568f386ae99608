"""Calls after one another, and calls from everywhere that Python calls functions from."""

from __future__ import annotations

from .scenarios import Scenario

SECRET, OTHER = "fs.read <no>/secret.txt", "fs.read <no>/data.json"


def _s(name: str, code: str, *events: str, policy: str = "plain", monitored: tuple[str, ...] | None = None) -> Scenario:
    return Scenario(name, code, events, policy, monitored)


#: Calls that no hook asks about: what refuses them, and what the policy allowed just before them.
_UNASKED = {
    "bind to a device": ("s.setsockopt(1, 25, b'lo')", "net.socket setsockopt(*"),
    "a mark": ("s.setsockopt(1, 36, 1)", "net.socket setsockopt(*"),
    "options of IP": ("s.setsockopt(0, socket.IP_OPTIONS, b'')", "net.socket setsockopt(*"),
    "a higher priority": ("os.nice(-5)", "kernel.capability *"),
    "another user": ("os.setuid(0)", "kernel.capability *"),
    "no groups": ("os.setgroups([])", "kernel.capability *"),
    "another name": ("socket.sethostname('x')", "kernel.namespace *"),
    "real time": ("os.sched_setscheduler(0, 1, os.sched_param(5))", "kernel.capability *"),
    "memory by descriptor": ("os.memfd_create('x')", "import.native *"),
    "a pair of AF_INET": ("socket.socketpair(socket.AF_INET)", "net.socket *"),
    "the clock": ("__import__('time').clock_settime(0, 1)", "kernel.capability *"),
    "code in memory": ("__import__('mmap').mmap(-1, 4096, prot=7)", "memory.exec *"),
}
_ALLOWED = {
    "socket": "s = socket.socket()",
    "connect": "s = socket.create_connection(('127.0.0.1', <port>))",
    "kill": "s = socket.socket()\nos.kill(os.getpid(), 0)",
    "open": "s = socket.socket()\nopen('<rw>/f.txt', 'a').close()",
}
AFTER_ALLOWED = [
    _s(f"{unasked} after {allowed}", f"import os, socket\n{before}\n{call}", event, policy="net")
    for unasked, (call, event) in _UNASKED.items()
    for allowed, before in _ALLOWED.items()
    if allowed == "socket" or unasked in ("a higher priority", "bind to a device", "real time")
]

PAIRS = [
    _s("two on lines of their own, the first caught",
       "import os\ntry:\n    open('<no>/secret.txt') #!\nexcept OSError:\n    pass\nopen('<no>/data.json') #!", SECRET, OTHER),
    _s("a caught refusal, then a call without a hook",
       "import os\ntry: open('<no>/secret.txt')\nexcept OSError: pass\nos.nice(-5)", SECRET, "kernel.capability *"),
    _s("a caught call without a hook, then a refusal",
       "import os\ntry: os.nice(-5)\nexcept OSError: pass\nopen('<no>/secret.txt')", SECRET, "kernel.capability *"),
    _s("a call without a hook twice", "import os\nfor _ in range(2):\n    try: os.nice(-5)\n    except OSError: pass",
       "kernel.capability * x2"),
    _s("two refusals in one line",
       "def t(f, *a):\n    try: f(*a) #!\n    except OSError: pass\nimport os\nt(open, '<no>/secret.txt'); t(os.listdir, '<no>')",
       SECRET, "fs.read <no>"),
    _s("two in one expression",
       "def t(p):\n    try: return open(p) #!\n    except OSError: return 0\nx = t('<no>/secret.txt') or t('<no>/data.json')", SECRET, OTHER, monitored=(SECRET,)),
    _s("the same name, read and written",
       "for m in ('r', 'w'):\n    try: open('<ro>/den/s.txt', m) #!\n    except OSError: pass",
       "fs.read <ro>/den/s.txt", "fs.write|fs.create <ro>/den/s.txt"),
    _s("different calls by one instruction",
       "import os\nfor f, a in ((open, ('<no>/secret.txt',)), (os.listdir, ('<no>',)), (os.mkdir, ('<ro>/new',)), (os.remove, ('<ro>/a.txt',))):\n"
       "    try: f(*a) #!\n    except OSError: pass", SECRET, "fs.read <no>", "fs.create <ro>/new", "fs.delete <ro>/a.txt"),
    _s("allowed and refused by one instruction",
       "for p in ('<rw>/f.txt', '<no>/secret.txt', '<ro>/a.txt', '<no>/data.json'):\n    try: open(p) #!\n    except OSError: pass", SECRET, OTHER),
    _s("with and without a hook by one instruction",
       "import os\nfor f, a in ((os.kill, (os.getpid(), 0)), (os.nice, (-5,)), (open, ('<no>/secret.txt',))):\n    try: f(*a) #!\n    except OSError: pass",
       "kernel.capability *", SECRET),
    _s("seven of one", "for _ in range(7):\n    try: open('<no>/secret.txt') #!\n    except OSError: pass", f"{SECRET} x7"),
    _s("seven of each of two", "for _ in range(7):\n    for n in ('secret.txt', 'data.json'):\n        try: open('<no>/' + n) #!\n        except OSError: pass",
       f"{SECRET} x7", f"{OTHER} x7"),
    _s("a guest's own PermissionError after a refusal",
       "try: open('<no>/secret.txt')\nexcept OSError: pass\nraise PermissionError(13, 'mine')", SECRET),
    _s("a guest's own PermissionError after an allowed call", "open('<rw>/f.txt').close()\nraise PermissionError(13, 'mine', '<rw>/f.txt')"),
    _s("raised again by another name",
       "try: open('<no>/secret.txt')\nexcept OSError as e: raise RuntimeError('x') from e", SECRET),
    _s("raised again", "try: open('<no>/secret.txt') #!\nexcept OSError as e: raise", SECRET),
    _s("another in the handler", "try: open('<no>/secret.txt') #!\nexcept OSError: open('<no>/data.json') #!", SECRET, OTHER, monitored=(SECRET,)),
    _s("open, then a look", "import os\ntry: open('<no>/secret.txt')\nexcept OSError: pass\nos.path.exists('<no>/secret.txt')",
       SECRET, "fs.lookup <no>/secret.txt"),
    _s("a look, then open", "import os\nif not os.path.exists('<no>/secret.txt'): open('<no>/secret.txt')", SECRET, "fs.lookup <no>/secret.txt",
       monitored=("fs.lookup <no>/secret.txt",)),
    _s("nothing there", "import os\nos.path.exists('<no>/absent'); os.path.exists('<rw>/absent')\ntry: open('<rw>/absent')\nexcept OSError: pass"),
    _s("a missing file of a readable directory", "try: open('<ro>/absent')\nexcept FileNotFoundError: pass"),
    _s("three addresses", "import socket\nfor p in (1, 2, 3):\n    try: socket.create_connection(('127.0.0.1', p)) #!\n    except OSError: pass",
       "net.connect 127.0.0.1:1", "net.connect 127.0.0.1:2", "net.connect 127.0.0.1:3", policy="net"),
    _s("connect, bind, listen and send",
       "import socket\ndef t(f, *a):\n    try: f(*a) #!\n    except OSError: pass\n"
       "t(socket.socket().connect, ('127.0.0.1', 1)); t(socket.socket().bind, ('127.0.0.1', 1026)); "
       "t(socket.socket(2, 2).sendto, b'x', ('10.1.2.3', 53))",
       "net.connect 127.0.0.1:1", "net.bind 127.0.0.1:1026", "net.send 10.1.2.3:53", policy="net"),
    _s("three modules", "for n in ('numpy', 'click', 'psutil'):\n    try: __import__(n) #!\n    except ImportError: pass",
       "import.module numpy", "import.module click", "import.module psutil"),
    _s("an optional module", "try: import numpy #!\nexcept ImportError: numpy = None\nopen('<rw>/f.txt').read()", "import.module numpy"),
    _s("signals to init and to nobody", "import os\nfor p in (1, 4242):\n    try: os.kill(p, 9)\n    except OSError: pass",
       "process.signal *(1, *", "process.signal *(4242, *"),
    _s("a signal to nobody", "import os\nos.kill(4242, 0) #!", "process.signal *(4242, *"),
    _s("a signal to nobody's group", "import os\nos.killpg(4242, 15) #!", "process.signal *4242, *"),
]  # fmt: skip

#: Where Python calls a function from: `f` is refused there.
_F = "import os\ndef f(*a):\n    open('<no>/secret.txt') #!\n"
_G = "import os\ndef f(*a):\n    try: open('<no>/secret.txt') #!\n    except OSError: pass\n    return 0\n"
_FROM = {
    "a comprehension": "[open('<no>/secret.txt') for _ in '1'] #!",
    "a generator": "list(open(p) for p in ['<no>/secret.txt']) #!",
    "a generator that is closed": _F + "def g():\n    try: yield\n    finally: f()\ng_ = g(); next(g_); g_.close()",
    "finally": _F + "try: pass\nfinally: f()",
    "__exit__": _F + "import contextlib\nwith contextlib.ExitStack() as s: s.callback(f)",
    "__del__": _G + "class A:\n    __del__ = f\na = A(); del a",
    "__del__ of what the collector finds": _G + "import gc\nclass A:\n    __del__ = f\na = A(); a.a = a; del a; gc.collect()",
    "a weak reference": _G + "import weakref\nclass A: pass\na = A(); r = weakref.ref(a, f); del a",
    "a class body": "class A:\n    x = open('<no>/secret.txt') #!",
    "a decorator": _F + "@f\ndef g(): pass",
    "a property": _F + "class A:\n    p = property(f)\nA().p",
    "__getattr__": _F + "class A:\n    __getattr__ = f\nA().x",
    "a metaclass": _F + "class M(type):\n    __init__ = f\nclass A(metaclass=M): pass",
    "__init_subclass__": _F + "class A:\n    def __init_subclass__(cls): f()\nclass B(A): pass",
    "a default of a dataclass": _F + "import dataclasses\n@dataclasses.dataclass\nclass A:\n    x: int = dataclasses.field(default_factory=f)\nA()",
    "a key of sorted": _G + "sorted([1], key=f)",
    "max": _G + "max([1], key=f)",
    "map": _F + "list(map(f, [1]))",
    "reduce": _F + "import functools\nfunctools.reduce(f, [1, 2])",
    "a cached function": _F + "import functools\nfunctools.lru_cache(f)(1)",
    "a partial": "import functools\nfunctools.partial(open, '<no>/secret.txt')() #!",
    "a lambda": "(lambda: open('<no>/secret.txt'))() #!",
    "eval": "eval(\"open('<no>/secret.txt')\")",
    "exec of a string": "exec(\"import os\\nopen('<no>/secret.txt')\")",
    "exec of a function's code": _F + "exec(f.__code__)",
    "re.sub": _F + "import re\nre.sub('a', f, 'a')",
    "json's hook": _F + "import json\njson.loads('{}', object_hook=f)",
    "json's default": _F + "import json\njson.dumps(f, default=f)",
    "pickle": "import pickle\nclass A:\n    def __reduce__(self): return open, ('<no>/secret.txt',)\npickle.loads(pickle.dumps(A())) #!",
    "copy": _F + "import copy\nclass A:\n    __deepcopy__ = f\ncopy.deepcopy(A())",
    "a parser of XML": _F + "import xml.parsers.expat as e\np = e.ParserCreate(); p.StartElementHandler = f; p.Parse('<a/>')",
    "a callback of C": _G + "import ctypes\nT = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)\n"
    "ctypes.CDLL(None).qsort((ctypes.c_int * 2)(2, 1), 2, 4, T(f))",
    "a handler of a signal": _F + "import signal\nsignal.signal(signal.SIGUSR1, f)\nsignal.raise_signal(signal.SIGUSR1)",
    "a thread": _F + "import threading\nt = threading.Thread(target=f); t.start(); t.join()",
    "a thread whose target is open": "import threading\nt = threading.Thread(target=open, args=('<no>/secret.txt',)); t.start(); t.join()",
    "a timer": _F + "import threading\nt = threading.Timer(0, f); t.start(); t.join()",
    "an executor": _F + "import concurrent.futures as c\nwith c.ThreadPoolExecutor(1) as x: x.submit(f).result()",
    "an executor whose function is open": "import concurrent.futures as c\nwith c.ThreadPoolExecutor(1) as x: x.submit(open, '<no>/secret.txt').result()",
    "a task of asyncio": _F + "import asyncio\nasync def g(): f()\nasync def m(): await asyncio.create_task(g())\nasyncio.run(m())",
    "gather": _F + "import asyncio\nasync def g(): f()\nasync def m(): await asyncio.gather(g(), return_exceptions=True)\nasyncio.run(m())",
    "to_thread": _F + "import asyncio\nasyncio.run(asyncio.to_thread(f))",
    "to_thread of open": "import asyncio\nasyncio.run(asyncio.to_thread(open, '<no>/secret.txt'))",
    "call_soon": _G + "import asyncio\nasync def m():\n    asyncio.get_running_loop().call_soon(f); await asyncio.sleep(0)\nasyncio.run(m())",
    "an asynchronous generator": _F + "import asyncio\nasync def g():\n    f(); yield\nasync def m():\n    async for _ in g(): pass\nasyncio.run(m())",
    "contextvars": _F + "import contextvars\ncontextvars.copy_context().run(f)",
    "sys.settrace": _G + "import sys\nsys.settrace(lambda *a: f() and None)\n(lambda: 0)()\nsys.settrace(None)",
    "an excepthook of threads": _G + "import threading\nthreading.excepthook = f\nt = threading.Thread(target=lambda: 1/0); t.start(); t.join()",
    "a module of the workspace": "import os, sys\nos.makedirs('/tmp/mods', exist_ok=True)\n"
    "open('/tmp/mods/mine_truth.py', 'w').write(\"open('<no>/secret.txt')\")\nsys.path.insert(0, '/tmp/mods')\nimport mine_truth",
    "runpy of the workspace": "import runpy, os\nopen('/tmp/run_truth.py', 'w').write(\"open('<no>/secret.txt')\")\nrunpy.run_path('/tmp/run_truth.py')",
    "unittest": _F + "import unittest\nclass T(unittest.TestCase):\n    def test(self): f()\nunittest.TestResult and T('test').run(unittest.TestResult())",
    "a doctest": _G + "import doctest\ndoctest.run_docstring_examples('>>> f()\\n0\\n', {'f': f})",
    "a filter of logging": _G + "import logging\nl = logging.getLogger('t'); l.addFilter(f); l.warning('x')",
    "print to a file of its own": _G + "class W:\n    write = f\nprint('x', file=W())",
    "an iterator": _F + "class I:\n    def __iter__(self): return self\n    __next__ = f\nnext(I())",
    "a comparison": _F + "class A:\n    __eq__ = f\nA() == 1",
    "a hash": _F + "class A:\n    __hash__ = f\n{A(): 1}",
    "a path object": "import pathlib\np = pathlib.Path('<no>/secret.txt')\np.read_text() #!",
}  # fmt: skip
_OTHERWISE = {
    "print to a file of its own": (f"{SECRET} x2",),
    # no memory for the callback's code is to be had, in any of four ways
    "a callback of C": (
        "memory.exec mmap*",
        "import.native memfd_create()",
        "import.native /sandbox/workspace/#* x*",  # files without a name, each in its turn
        "fs.create /var/tmp",
    ),
}
#: Where a guest that nothing stops goes on otherwise; /tmp is the host's there.
_MONITORED = {
    "a callback of C": (SECRET, "memory.exec mmap*"),
    "a module of the workspace": (SECRET, "fs.* /tmp* x*"),
    "runpy of the workspace": (SECRET, "fs.* /tmp* x*"),
    "sys.settrace": (f"{SECRET} x*",),
    "a doctest": (SECRET, "fs.* */terminfo/* x*"),
}
FROM = [
    Scenario(f"from {name}", code, _OTHERWISE.get(name, (SECRET,)), "plain", _MONITORED.get(name))
    for name, code in _FROM.items()
]

_CHILD = "import os, sys\ndef f(*a):\n    try: open('<no>/secret.txt') #!\n    except OSError: pass\n    return 0\n"
CHILDREN = [
    _s(name, _CHILD + code, event, policy="shell")
    for name, code, event in (
        ("a forked child", "p = os.fork()\nif not p:\n    f(); os._exit(0)\nos.waitpid(p, 0)", SECRET),
        ("a forked child, seven", "p = os.fork()\nif not p:\n    [f() for _ in range(7)]; os._exit(0)\nos.waitpid(p, 0)", f"{SECRET} x7"),
        ("five forked children", "for _ in range(5):\n    p = os.fork()\n    if not p:\n        f(); os._exit(0)\n    os.waitpid(p, 0)", f"{SECRET} x5"),
        ("parent and child", "f()\np = os.fork()\nif not p:\n    f(); os._exit(0)\nos.waitpid(p, 0)\nf()", f"{SECRET} x3"),
        ("a grandchild", "p = os.fork()\nif not p:\n    q = os.fork()\n    if not q:\n        f(); os._exit(0)\n    os.waitpid(q, 0); os._exit(0)\nos.waitpid(p, 0)", SECRET),
        ("a process of multiprocessing", "import multiprocessing as m\np = m.get_context('fork').Process(target=f); p.start(); p.join()", SECRET),
        ("a pool", "import multiprocessing as m\nwith m.get_context('fork').Pool(2) as p: p.map(f, range(6)); p.close(); p.join()", f"{SECRET} x6"),
        ("an executor of processes", "from concurrent.futures import ProcessPoolExecutor as P\nimport multiprocessing as m\nwith P(2, mp_context=m.get_context('fork')) as p: list(p.map(f, range(6)))", f"{SECRET} x6"),
        ("a child that is replaced", "p = os.fork()\nif not p:\n    f(); os.execv('<true>', ['true'])\nos.waitpid(p, 0)", SECRET),
        ("a child that ends by exit", "p = os.fork()\nif not p:\n    try:\n        f(); sys.exit(0)\n    finally: os._exit(0)\nos.waitpid(p, 0)", SECRET),
        ("a child's own call without a hook", "p = os.fork()\nif not p:\n    try: os.nice(-5)\n    except OSError: pass\n    os._exit(0)\nos.waitpid(p, 0)", "kernel.capability *"),
        ("after an allowed fork", "p = os.fork()\nif not p: os._exit(0)\nos.waitpid(p, 0)\nos.nice(-5)", "kernel.capability *"),
        ("after an allowed program", "import subprocess\nsubprocess.run(['<true>'])\nos.nice(-5)", "kernel.capability *"),
        ("an allowed program, then a refusal", "import subprocess\nsubprocess.run(['<true>'])\nf()", SECRET),
    )
]  # fmt: skip

_NATIVE = "import ctypes, os\nc = ctypes.CDLL(None, use_errno=True)\nc.syscall.restype = ctypes.c_long\nb = b'<no>/secret.txt'\n"
NATIVE = [
    _s(name, _NATIVE + code, *events, policy=policy)
    for name, code, events, policy in (
        ("native, three opens", "for _ in range(3): c.open(b, 0)", [f"{SECRET} x3"], "plain"),
        ("native, read and written", "c.open(b, 0); c.open(b, 1)", [SECRET, "fs.write <no>/secret.txt"], "plain"),
        ("native, a look and an open", "c.access(b, 0); c.open(b, 0)", [SECRET, "fs.lookup <no>/secret.txt"], "plain"),
        ("native after Python", "try: open('<no>/secret.txt')\nexcept OSError: pass\nc.open(b'<no>/data.json', 0)", [SECRET, OTHER], "plain"),
        ("Python after native", "c.open(b, 0)\ntry: open('<no>/data.json')\nexcept OSError: pass", [SECRET, OTHER], "plain"),
        ("one file, both ways", "c.open(b, 0)\ntry: open('<no>/secret.txt')\nexcept OSError: pass", [f"{SECRET} x2"], "plain"),
        ("native in a thread", "import threading\nt = threading.Thread(target=c.open, args=(b, 0)); t.start(); t.join()", [SECRET], "plain"),
        ("native, fopen and opendir", "c.fopen(b, b'r'); c.opendir(b'<no>')", [SECRET, "fs.read <no>"], "plain"),
        ("native, allowed and refused", "c.open(b'<rw>/f.txt', 2); c.open(b, 0); c.open(b'<ro>/a.txt', 0)", [SECRET], "plain"),
        ("native, names", "c.mkdir(b'<ro>/new', 0o700); c.unlink(b'<ro>/a.txt'); c.symlink(b'x', b'<ro>/l')",
         ["fs.create <ro>/new", "fs.delete <ro>/a.txt", "fs.create <ro>/l"], "plain"),
        ("native, a library that is not granted", "c.dlopen.restype = ctypes.c_void_p; c.dlopen(b'<no>/data.json', 2)", ["fs.read <no>/data.json"], "plain"),
        ("openat2, which is never allowed", "c.syscall(437, -100, b'<rw>/f.txt', (ctypes.c_uint64 * 3)(), 24)", ["fs.read <rw>/f.txt"], "plain"),
        ("native in a child", "p = os.fork()\nif not p:\n    c.open(b, 0); os._exit(0)\nos.waitpid(p, 0)", [SECRET], "shell"),
        ("native, five in a child that ends itself", "p = os.fork()\nif not p:\n    [c.open(b, 0) for _ in range(5)]; os.kill(os.getpid(), 9)\nos.waitpid(p, 0)", [f"{SECRET} x5"], "shell"),
        ("native, 200", "for _ in range(200): c.open(b, 0)", [f"{SECRET} x200"], "plain"),
        ("native, raw", "c.syscall(2, b, 0, 0); c.syscall(257, -100, b, 0, 0)", [f"{SECRET} x2"], "plain"),
    )
]  # fmt: skip

SEQUENCES: tuple[Scenario, ...] = (*AFTER_ALLOWED, *PAIRS, *FROM, *CHILDREN, *NATIVE)
