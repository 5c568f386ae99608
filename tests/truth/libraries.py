"""What libraries do, under grants and denials beside each other."""

from __future__ import annotations

from .scenarios import Scenario

SECRET = "fs.read <no>/secret.txt"
SHELL = "process.exec /bin/sh|/usr/bin/sh|<sh>"
#: OpenSSL's own name for them may be a link, which enforcing names and monitor mode follows.
CERTIFICATES = "fs.read /etc/ssl/cert*|/usr/lib/ssl/cert*"


def _s(name: str, code: str, *events: str, policy: str = "plain", monitored: tuple[str, ...] | None = None) -> Scenario:
    return Scenario(name, code, events, policy, monitored)


FILES = [
    _s("pathlib: read", "import pathlib\npathlib.Path('<no>/secret.txt').read_text() #!", SECRET),
    _s("pathlib: write", "import pathlib\npathlib.Path('<ro>/new').write_text('x') #!", "fs.create <ro>/new"),
    _s("pathlib: touch", "import pathlib\npathlib.Path('<ro>/new').touch() #!", "fs.create <ro>/new"),
    _s("pathlib: mkdir", "import pathlib\npathlib.Path('<ro>/x/y').mkdir(parents=True) #!", "fs.create <ro>/x/y",
       monitored=("fs.create <ro>/x* x*",)),
    _s("pathlib: exists", "import pathlib\npathlib.Path('<no>/secret.txt').exists()", "fs.lookup <no>/secret.txt"),
    _s("pathlib: iterdir", "import pathlib\nlist(pathlib.Path('<no>').iterdir()) #!", "fs.read <no>"),
    _s("pathlib: resolve of a link out", "import pathlib\npathlib.Path('<ro>/in').resolve()"),
    _s("pathlib: rename in a grant", "import pathlib\npathlib.Path('<rw>/f.txt').rename('<rw>/z.txt')"),
    _s("pathlib: unlink", "import pathlib\npathlib.Path('<ro>/a.txt').unlink() #!", "fs.delete <ro>/a.txt"),
    _s("pathlib: chmod", "import pathlib\npathlib.Path('<ro>/a.txt').chmod(0o600) #!", "fs.metadata <ro>/a.txt"),
    _s("glob", "import glob\nglob.glob('<no>/*')", "fs.lookup|fs.read <no> x*", monitored=("fs.* <no>* x*",)),
    _s("glob of what is granted", "import glob\nassert len(glob.glob('<ro>/*.txt')) == 1"),
    _s("os.walk of what is granted", "import os\nlist(os.walk('<rw>'))", "fs.lookup <no>/secret.txt"),
    _s("os.walk over a denied directory", "import os\nlist(os.walk('<ro>'))", "fs.read <ro>/den", "fs.lookup <no>", "fs.lookup <no>/secret.txt"),
    _s("os.makedirs that are there", "import os\nos.makedirs('<rw>/sub', exist_ok=True)\nos.makedirs('<ro>/sub', exist_ok=True)"),
    _s("shutil.copy", "import shutil\nshutil.copy('<ro>/a.txt', '<ro>/b.txt') #!", "fs.create <ro>/b.txt", monitored=("fs.* <ro>/b.txt x*",)),
    _s("shutil.copy of a secret", "import shutil\nshutil.copy('<no>/secret.txt', '<rw>/x') #!", SECRET, "fs.lookup <no>/secret.txt x2", monitored=("fs.* <no>/secret.txt x*",)),
    _s("shutil.copytree", "import shutil\nshutil.copytree('<ro>/sub', '<ro>/new') #!", "fs.create <ro>/new", monitored=("fs.* <ro>/new* x*",)),
    _s("shutil.copytree, granted", "import shutil\nshutil.copytree('<ro>/sub', '<rw>/new')"),
    _s("shutil.rmtree", "import shutil\nshutil.rmtree('<ro>/sub') #!", "fs.delete <ro>/sub/c.txt", monitored=("fs.delete <ro>/sub* x2",)),
    _s("shutil.rmtree, granted", "import shutil\nshutil.rmtree('<rw>/sub')"),
    _s("shutil.move within a grant", "import shutil\nshutil.move('<rw>/f.txt', '<rw>/sub/f.txt')"),
    _s("shutil.move between grants", "import shutil\nshutil.move('<rw>/f.txt', '<two>/f.txt')", "fs.create <two>/f.txt", policy="two"),
    _s("os.rename between grants", "import os\nos.rename('<rw>/f.txt', '<two>/f.txt')", "fs.create <two>/f.txt", policy="two"),
    _s("os.rename of a directory between grants", "import os\nos.rename('<rw>/sub', '<two>/sub')", "fs.create <two>/sub", policy="two"),
    _s("os.link between grants", "import os\nos.link('<rw>/f.txt', '<two>/l')", "fs.create <two>/l", policy="two"),
    _s("os.replace between grants", "import os\nos.replace('<rw>/f.txt', '<two>/h.txt')", "fs.create <two>/h.txt", policy="two"),
    _s("os.rename out of a grant", "import os\nos.rename('<rw>/f.txt', '<ro>/f.txt') #!", "fs.create <ro>/f.txt"),
    _s("os.rename into a grant", "import os\nos.rename('<ro>/a.txt', '<rw>/a.txt') #!", "fs.delete <ro>/a.txt", monitored=("fs.* <ro>/a.txt x*",)),
    _s("os.link to what can be read", "import os\nos.link('<ro>/a.txt', '<rw>/l')", "fs.* <ro>/a.txt|<rw>/l"),
    _s("os.symlink out of a grant", "import os\nos.symlink('<no>/secret.txt', '<rw>/l')\nopen('<rw>/l') #!", "fs.read <rw>/l|<no>/secret.txt"),
    _s("a link that leads out", "open('<ro>/out') #!", "fs.read <ro>/out|<no>/secret.txt"),
    _s("a link of a directory that leads out", "open('<ro>/outdir/secret.txt') #!", "fs.read <no>/secret.txt"),
    _s("a link that leads within", "open('<ro>/in').read()"),
    _s("a link from one grant to another", "open('<rw>/toro').read()"),
    _s("a link from one grant to another, written", "open('<rw>/toro', 'w') #!", "fs.write <rw>/toro|<ro>/a.txt"),
    _s("a link that is not granted to what is", "open('<no>/into').read()", "fs.read <no>/into"),
    _s("tempfile", "import tempfile\nwith tempfile.TemporaryFile() as f: f.write(b'x')\nwith tempfile.NamedTemporaryFile() as f: f.write(b'x')\n"
       "with tempfile.TemporaryDirectory() as d: open(d + '/x', 'w').close()"),
    _s("tempfile in a readable directory", "import tempfile\ntempfile.mkdtemp(dir='<ro>') #!", "fs.create <ro>/*", monitored=("fs.* <ro>/* x*",)),
    _s("zipfile", "import zipfile\nzipfile.ZipFile('<ro>/z.zip', 'w') #!", "fs.create|fs.write <ro>/z.zip x*", monitored=("fs.* <ro>/z.zip x*",)),
    _s("zipfile, granted", "import zipfile\nwith zipfile.ZipFile('<rw>/z.zip', 'w') as z: z.write('<ro>/a.txt', 'a')\nzipfile.ZipFile('<rw>/z.zip').extractall('<rw>/out2')"),
    _s("tarfile, granted", "import tarfile\nwith tarfile.open('<rw>/t.tar', 'w') as t: t.add('<ro>/sub', 'sub')\ntarfile.open('<rw>/t.tar').extractall('<rw>/out3', filter='data')"),
    _s("tarfile of a secret", "import tarfile\nwith tarfile.open('<rw>/t.tar', 'w') as t: t.add('<no>/secret.txt')", "fs.lookup <no>/secret.txt", monitored=("fs.* <no>/secret.txt x*",)),
    _s("csv and json", "import csv, json\nlist(csv.reader(open('<ro>/b.csv'))); json.dump(1, open('<rw>/j', 'w'))\njson.load(open('<no>/data.json')) #!", "fs.read <no>/data.json"),
    _s("configparser of files that are hidden", "import configparser\nconfigparser.ConfigParser().read(['<no>/data.json', '<rw>/absent']) #!", "fs.read <no>/data.json"),
    _s("fileinput", "import fileinput\nfor l in fileinput.input(['<ro>/a.txt', '<no>/secret.txt']): pass #!", SECRET),
    _s("mmap of what can be read", "import mmap\nf = open('<ro>/a.txt', 'rb')\nmmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ).read()"),
    _s("mmap, shared and writable, of what can be read", "import mmap\nf = open('<ro>/a.txt', 'rb')\ntry: mmap.mmap(f.fileno(), 0)\nexcept PermissionError: pass"),
    _s("a descriptor of a directory", "import os\nd = os.open('<ro>', os.O_RDONLY)\nos.open('a.txt', os.O_RDONLY, dir_fd=d)\nos.open('../no/secret.txt', os.O_RDONLY, dir_fd=d) #!", SECRET),
    _s("os.truncate and os.ftruncate", "import os\nos.truncate('<rw>/f.txt', 0)\nos.truncate('<ro>/a.txt', 0) #!", "fs.write <ro>/a.txt"),
    _s("os.access", "import os\nos.access('<no>/secret.txt', os.R_OK); os.access('<ro>/a.txt', os.W_OK)", "fs.lookup <no>/secret.txt"),
    _s("os.utime", "import os\nos.utime('<rw>/f.txt')\nos.utime('<ro>/a.txt') #!", "fs.metadata <ro>/a.txt"),
    _s("os.chdir, and a relative name", "import os\nos.chdir('<rw>')\nopen('f.txt').close()\nopen('../no/secret.txt') #!", SECRET),
    _s("linecache", "import linecache\nlinecache.getline('<no>/secret.txt', 1)", "fs.lookup <no>/secret.txt", monitored=("fs.* <no>/secret.txt x*",)),
    _s("os.sendfile", "import os\ns = os.open('<ro>/a.txt', 0); t = os.open('<rw>/f.txt', os.O_WRONLY)\nos.sendfile(t, s, 0, 4)"),
    _s("filecmp", "import filecmp\nfilecmp.cmp('<ro>/a.txt', '<no>/secret.txt')", "fs.lookup <no>/secret.txt", monitored=("fs.* <no>/secret.txt x*",)),
    _s("shelve", "import dbm.dumb\ndbm.dumb.open('<ro>/db', 'c') #!", "fs.create|fs.write <ro>/db.dat", monitored=("fs.* <ro>/db* x*",)),
]  # fmt: skip

GRANTS = [
    _s("a granted file that is not there, made", "open('<ro>/absent.txt', 'w') #!", "fs.create <ro>/absent.txt", policy="absent"),
    _s("a granted file that is not there, read", "open('<ro>/absent.txt')", policy="absent"),
    _s("a granted file that is not there, as a directory", "import os\nos.mkdir('<ro>/absent.txt') #!", "fs.create <ro>/absent.txt", policy="absent"),
    _s("a granted file that is there, written", "open('<ro>/a.txt', 'w').write('x')", policy="present"),
    _s("a granted file that is there, appended to", "open('<ro>/a.txt', 'a').write('x')", policy="present"),
    _s("a granted file that is there, removed", "import os\nos.unlink('<ro>/a.txt') #!", "fs.delete <ro>/a.txt", policy="present"),
    _s("a granted file that is there, replaced", "import os\nos.replace('<ro>/a.txt', '<ro>/z.txt') #!", "fs.* <ro>/a.txt|<ro>/z.txt x*", policy="present",
       monitored=("fs.* * x*",)),
    _s("its sibling", "open('<ro>/b.csv', 'w') #!", "fs.write <ro>/b.csv", policy="present"),
    _s("a denied file below a grant", "open('<ro>/den/s.txt') #!", "fs.read <ro>/den/s.txt"),
    _s("a denied directory below a grant, listed", "import os\nos.listdir('<ro>/den') #!", "fs.read <ro>/den"),
    _s("beside a denied directory", "open('<ro>/a.txt').read(); open('<ro>/sub/c.txt').read()"),
    _s("create only: a new file", "open('<make>/new', 'x')", "fs.write <make>/new", policy="make"),
    _s("create only: a new directory", "import os\nos.mkdir('<make>/new')", policy="make"),
    _s("create only: removed", "import os\nos.mkdir('<make>/new')\nos.rmdir('<make>/new') #!", "fs.delete <make>/new", policy="make"),
    _s("write only: made", "open('<drop>/new', 'w').write('x')", policy="drop"),
    _s("write only: read", "open('<drop>/new', 'w').write('x')\nopen('<drop>/new') #!", "fs.read <drop>/new", policy="drop"),
    _s("write only: listed", "import os\nos.listdir('<drop>') #!", "fs.read <drop>", policy="drop"),
]  # fmt: skip

SQLITE = [
    _s("sqlite3: a hidden file", "import sqlite3\nsqlite3.connect('<no>/secret.txt') #!", "fs.* <no>/secret.txt x*"),
    _s("sqlite3: granted", "import sqlite3\nc = sqlite3.connect('<rw>/d.db'); c.execute('create table t (x)'); c.commit(); c.close()"),
    _s("sqlite3: in a readable directory", "import sqlite3\nsqlite3.connect('<ro>/d.db') #!", "fs.create|fs.write <ro>/d.db x*", monitored=("fs.* <ro>/d.db x*",)),
    _s("sqlite3: ATTACH", "import sqlite3\nc = sqlite3.connect(':memory:')\nc.execute(\"attach '<no>/x.db' as x\")", "fs.create <no>/x.db", "fs.lookup <no>", monitored=("fs.* <no>/x.db|<no> x*",)),
    _s("sqlite3: a function", "import sqlite3\ndef f():\n    try: open('<no>/secret.txt') #!\n    except OSError: pass\nc = sqlite3.connect(':memory:'); c.create_function('f', 0, f); c.execute('select f()').fetchall()", SECRET),
]  # fmt: skip

LOGGING = [
    _s("logging: a file", "import logging\nlogging.FileHandler('<ro>/x.log') #!", "fs.create <ro>/x.log", monitored=("fs.* <ro>/x.log x*",)),
    _s("logging: granted and turned over", "import logging.handlers\nh = logging.handlers.RotatingFileHandler('<rw>/x.log', maxBytes=10, backupCount=2)\n"
       "for i in range(9): h.emit(logging.makeLogRecord({'msg': 'long enough'}))\nh.close()"),
    _s("logging: a collector", "import logging.handlers\nlogging.handlers.SysLogHandler(('127.0.0.1', <closed>)).emit(logging.makeLogRecord({'msg': 'x'}))",
       "net.send 127.0.0.1:<closed>", policy="net"),
    _s("logging: TCP", "import logging.handlers\nlogging.handlers.SocketHandler('127.0.0.1', <closed>).emit(logging.makeLogRecord({'msg': 'x'}))",
       "net.connect 127.0.0.1:<closed>", policy="net"),
]  # fmt: skip

NET = [
    _s("urllib", "import urllib.request\nurllib.request.urlopen('http://127.0.0.1:9/') #!", "net.connect 127.0.0.1:9", policy="net"),
    _s("urllib of a file", "import urllib.request\nurllib.request.urlopen('file://<no>/secret.txt')", "fs.* <no>/secret.txt x*"),
    _s("http.client", "import http.client\nhttp.client.HTTPConnection('192.0.2.7', 81).request('GET', '/') #!", "net.connect 192.0.2.7:81", policy="net"),
    _s("ssl", "import ssl, socket\nssl.create_default_context()\nsocket.create_connection(('192.0.2.7', 443), 1) #!", CERTIFICATES, "net.connect 192.0.2.7:443", policy="net"),
    _s("ssl: a certificate", "import ssl\nssl.create_default_context().load_cert_chain('<no>/secret.txt')", CERTIFICATES, SECRET, policy="net"),
    _s("a name", "import socket\nsocket.getaddrinfo('example.org', 80) #!", "net.connect example.org:80", policy="net"),
    _s("socketserver", "import socketserver\nsocketserver.TCPServer(('127.0.0.1', 1026), None) #!", "net.bind 127.0.0.1:1026", policy="net"),
    _s("http.server", "import http.server\nhttp.server.HTTPServer(('0.0.0.0', 8080), None) #!", "net.bind 0.0.0.0:8080", policy="net"),
    _s("asyncio: connect", "import asyncio\nasyncio.run(asyncio.open_connection('127.0.0.1', <closed>))", "net.connect 127.0.0.1:<closed>", policy="net"),
    _s("asyncio: serve", "import asyncio\nasyncio.run(asyncio.start_server(print, '127.0.0.1', 1026))", "net.bind 127.0.0.1:1026", policy="net"),
    _s("smtplib", "import smtplib\nsmtplib.SMTP('192.0.2.7') #!", "net.connect 192.0.2.7:25", policy="net"),
    _s("ftplib", "import ftplib\nftplib.FTP('192.0.2.7', timeout=2) #!", "net.connect 192.0.2.7:21", policy="net"),
    _s("connect to what is granted, then elsewhere", "import socket\nsocket.create_connection(('127.0.0.1', <port>)).close()\nsocket.create_connection(('127.0.0.1', <closed>)) #!",
       "net.connect 127.0.0.1:<closed>", policy="net"),
    _s("connect_ex", "import socket\nsocket.socket().connect_ex(('127.0.0.1', <closed>)) #!", "net.connect 127.0.0.1:<closed>", policy="net"),
    _s("a datagram", "import socket\ns = socket.socket(2, 2)\ns.sendto(b'x', ('10.1.2.3', 53)) #!", "net.send 10.1.2.3:53", policy="net"),
    _s("a unix socket", "import socket\nsocket.socket(socket.AF_UNIX).connect('<no>/s') #!", "net.socket|net.connect unix:<no>/s|AF_UNIX/SOCK_STREAM", policy="net"),
    _s("no network at all", "import socket\nsocket.create_connection(('127.0.0.1', 1)) #!", "net.connect 127.0.0.1:1"),
    _s("a socket, without a network", "import socket\nsocket.socket() #!", "net.socket AF_INET/SOCK_STREAM"),
]  # fmt: skip

PROCESSES = [
    _s("subprocess.run", "import subprocess\nsubprocess.run(['/usr/bin/id']) #!", "process.exec /usr/bin/id"),
    _s("subprocess.run of another", "import subprocess\nsubprocess.run(['<true>'])\nsubprocess.run(['/usr/bin/id']) #!", "process.exec /usr/bin/id", policy="fork"),
    _s("subprocess of a bare name", "import subprocess\nsubprocess.run(['id']) #!", "process.exec /usr/bin/id"),
    _s("subprocess of a name that is not there", "import subprocess\ntry: subprocess.run(['nosuchprogram'])\nexcept FileNotFoundError: pass", "process.exec */nosuchprogram", policy="fork"),
    _s("subprocess by a shell", "import subprocess\nsubprocess.run('id', shell=True) #!", SHELL),
    _s("subprocess.check_output", "import subprocess\ntry: subprocess.check_output(['/usr/bin/id']) #!\nexcept OSError: pass\nopen('<no>/secret.txt') #!", "process.exec /usr/bin/id", SECRET),
    _s("subprocess.getoutput", "import subprocess\nsubprocess.getoutput('id') #!", SHELL),
    _s("os.system", "import os\nos.system('id') #!", SHELL),
    _s("os.popen", "import os\nos.popen('id').read() #!", SHELL),
    _s("os.posix_spawn", "import os\nos.waitpid(os.posix_spawn('/usr/bin/id', ['id'], {}), 0) #!", "process.exec /usr/bin/id"),
    _s("os.execv", "import os\nos.execv('/usr/bin/id', ['id']) #!", "process.exec /usr/bin/id"),
    _s("os.fork", "import os\nos.fork() #!", "process.fork *fork", monitored=("process.fork * x*",)),
    _s("asyncio's subprocess", "import asyncio\nasyncio.run(asyncio.create_subprocess_exec('/usr/bin/id'))", "process.exec /usr/bin/id"),
    _s("a script by subprocess", "import subprocess\nsubprocess.run(['<ro>/script.sh']) #!", "process.exec <ro>/script.sh", policy="fork"),
    _s("cat by subprocess", "import subprocess\nsubprocess.run(['/usr/bin/cat', '<no>/secret.txt'])", SECRET, policy="shell"),
    _s("bash by subprocess", "import subprocess\nsubprocess.run('cat <no>/secret.txt; echo x > <ro>/new', shell=True)", SECRET, "fs.create <ro>/new", policy="shell"),
    _s("a pipeline by subprocess", "import subprocess as s\na = s.Popen(['/usr/bin/cat', '<no>/secret.txt'], stdout=s.PIPE)\ns.run(['/usr/bin/wc'], stdin=a.stdout); a.wait()", SECRET, policy="shell"),
    _s("multiprocessing, without a grant", "import multiprocessing as m\nm.get_context('fork').Process(target=print).start() #!", "process.fork *fork", monitored=("process.fork * x*",)),
]  # fmt: skip

NAMES = [
    _s("an unknown user", "import pwd\ntry: pwd.getpwuid(424242)\nexcept KeyError: pass", policy="shell"),
    _s("an unknown name", "import os\nos.path.expanduser('~nosuch')", policy="shell"),
    _s("uuid, platform and secrets", "import uuid, platform, secrets\nuuid.uuid4(); uuid.uuid1(); platform.platform(); secrets.token_hex()"),
    _s("time zones", "import zoneinfo, datetime\ndatetime.datetime.now(zoneinfo.ZoneInfo('UTC'))"),
    _s("asyncio alone", "import asyncio\nasyncio.run(asyncio.sleep(0))"),
    _s("dev/null, isatty and a traceback", "import os, sys, traceback\nopen('/dev/null', 'w').write('x'); sys.stdout.isatty()\ntry: 1/0\nexcept Exception: traceback.print_exc()"),
]  # fmt: skip

LIBRARIES: tuple[Scenario, ...] = (*FILES, *GRANTS, *SQLITE, *LOGGING, *NET, *PROCESSES, *NAMES)
