"""What must not work: each attack is the code of an answer, run against the marker by `check`.

An attack earns nothing, sees nothing of what `$folder` holds, and changes nothing there. `$name` is a
function that the assignment asks for. Beside it these stand for what an attacker might know:
`$folder` (a course: its secret, marks and another student's notebook), `$marker` and `$victim` (the
numbers of the marking process and of a bystander), `$port` (a server on this machine), and `$package`
(where the book's package lies).
"""

ATTACKS = {
    # reading
    "reads the secret": "def $name(*a, **k):\n    return open('$folder/course.toml').read()",
    "reads the checks": "def $name(*a, **k):\n    return open('$package/../course/attacks.py').read()",
    "lists folders": "import os\ndef $name(*a, **k):\n    return os.listdir('$folder')",
    "reads through a link of /proc": """
def $name(*a, **k):
    return open('/proc/$marker/root$folder/course.toml').read()
""",
    "reads the marker's memory": "def $name(*a, **k):\n    return open('/proc/$marker/mem', 'rb').read(9)",
    "reads the marker's environment": "def $name(*a, **k):\n    return open('/proc/$marker/environ').read()",
    "traces the marker": """
import ctypes
def $name(*a, **k):
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.ptrace(16, $marker, 0, 0) == 0
    return open('$folder/course.toml').read()
""",
    "looks through frames": """
import sys
def $name(*a, **k):
    frame, found = sys._getframe(), []
    while frame:
        found += [v for v in frame.f_locals.values() if isinstance(v, str)]
        frame = frame.f_back
    return found
""",
    "looks through all objects": """
import gc
def $name(*a, **k):
    return [o for o in gc.get_objects() if isinstance(o, dict) and 'secret' in o][0]['secret']
""",
    "imports the book's package": """
def $name(*a, **k):
    from modalign import transport, cka, gradients
    return 'imported the package'
""",
    "imports the package by its path": """
import sys
def $name(*a, **k):
    sys.path.insert(0, '$package/..')
    import modalign.course.marking as marking
    return 'imported the package'
""",
    # pretending
    "equals everything": """
class Anything(float):
    __eq__ = lambda self, other: True
    __ne__ = lambda self, other: False
    __sub__ = __rsub__ = lambda self, other: 0
def $name(*a, **k):
    return Anything(1)
""",
    "a tensor that equals everything": """
import torch
class Anything(torch.Tensor):
    @classmethod
    def __torch_function__(cls, f, types, args=(), kwargs=None):
        return True
def $name(*a, **k):
    return torch.ones(3).as_subclass(Anything)
""",
    "patches comparisons": """
import torch, builtins
torch.allclose = torch.equal = lambda *a, **k: True
torch.testing.assert_close = lambda *a, **k: None
builtins.abs = lambda x: 0
def $name(*a, **k):
    return torch.zeros(())
""",
    "patches the messages": """
import sys
sys.modules['wire'].encode = lambda value: b'right'
def $name(*a, **k):
    return 1
""",
    "forges an answer": """
import json, os, struct
def $name(*a, **k):
    tree = json.dumps({'value': True, 'state': 'right', 'earned': 99}).encode()
    os.write(3, struct.pack('>QQ', len(tree), 0) + tree)
    return 1
""",
    "sends garbage": "import os\ndef $name(*a, **k):\n    os.write(3, b'0' * 4000)\n    return 1",
    "announces more than it sends": """
import os, struct
def $name(*a, **k):
    os.write(3, struct.pack('>QQ', 2**62, 2**62))
    return 1
""",
    "returns a pickle's order": """
class Order:
    def __reduce__(self):
        return print, ('run on the other side',)
def $name(*a, **k):
    return Order()
""",
    "hard-coded values": "import torch\ndef $name(*a, **k):\n    return torch.tensor(0.25)",
    "gives back what it was given": "def $name(*a, **k):\n    return a[0]",
    "tells inputs by an error's name": """
def $name(*a, **k):
    raise type('x' + str(a)[:50], (Exception,), {})()
""",
    "prints what it was given": "def $name(*a, **k):\n    print(a, flush=True)\n    return a",
    "hides its numbers": """
import torch
class Deaf(dict):
    def items(self):
        while True:
            yield 1, 1
def $name(*a, **k):
    return Deaf()
""",
    # ending, staying, filling
    "exits": "import sys\ndef $name(*a, **k):\n    sys.exit(0)",
    "exits at once": "import os\ndef $name(*a, **k):\n    os._exit(0)",
    "exits as it is loaded": "import os\nos_exit = os._exit(0)\ndef $name(*a, **k):\n    return os_exit",
    "crashes in C": "import ctypes\ndef $name(*a, **k):\n    ctypes.string_at(1)",
    "overflows the stack": """
import sys
sys.setrecursionlimit(10**9)
def $name(*a, **k):
    return $name(*a, **k)
""",
    "kills the marker": "import os\ndef $name(*a, **k):\n    os.kill($marker, 9)",
    "kills everything": "import os\ndef $name(*a, **k):\n    os.kill(-1, 9)",
    "kills a bystander": "import os\ndef $name(*a, **k):\n    os.kill($victim, 9)",
    "kills its parent": "import os\ndef $name(*a, **k):\n    os.kill(os.getppid(), 9)",
    "signals by a file's owner": """
import fcntl, os, signal
def $name(*a, **k):
    fcntl.fcntl(3, fcntl.F_SETOWN, $victim)
    fcntl.fcntl(3, 10, signal.SIGKILL)
    fcntl.fcntl(3, fcntl.F_SETFL, os.O_ASYNC)
    return 1
""",
    "loops": "def $name(*a, **k):\n    while True:\n        pass",
    "loops and catches everything": """
def $name(*a, **k):
    while True:
        try:
            while True:
                pass
        except BaseException:
            pass
""",
    "ignores signals and sleeps": """
import signal, time
def $name(*a, **k):
    for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGXCPU):
        signal.signal(each, signal.SIG_IGN)
    time.sleep(10**6)
""",
    "a fork bomb": "import os\ndef $name(*a, **k):\n    while True:\n        os.fork()",
    "a process that stays": """
import subprocess
def $name(*a, **k):
    subprocess.Popen(['sleep', '987'], start_new_session=True)
    return 1
""",
    "raises its limits": """
import resource
def $name(*a, **k):
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return bytearray(2**33)
""",
    "fills memory with one tensor": "import torch\ndef $name(*a, **k):\n    return torch.ones(2**32).sum()",
    "fills memory bit by bit": """
def $name(*a, **k):
    held = []
    while True:
        held.append(bytearray(2**22))
""",
    "fills shared memory": """
import os
def $name(*a, **k):
    held = [os.memfd_create(str(i)) for i in range(50)]
    for each in held:
        os.write(each, b'0' * 2**28)
""",
    "fills the disk": """
def $name(*a, **k):
    for place in ('$folder', '/tmp', '/var/tmp', '/dev/shm', '.'):
        try:
            with open(place + '/modalign-attack', 'w') as file:
                file.write('0' * 2**20)
        except OSError:
            pass
    return 1
""",
    "prints for ever": "def $name(*a, **k):\n    while True:\n        print('0' * 2**20)",
    "answers hugely": "import torch\ndef $name(*a, **k):\n    return [torch.zeros(2**22) for _ in range(40)]",
    "answers deeply": """
def $name(*a, **k):
    held = []
    for _ in range(10**5):
        held = [held]
    return held
""",
    "an answer that holds itself": "def $name(*a, **k):\n    held = []\n    held.append(held)\n    return held",
    # touching
    "overwrites marks": "def $name(*a, **k):\n    open('$folder/marks.csv', 'w').write('99')",
    "overwrites another's notebook": "def $name(*a, **k):\n    open('$folder/other.ipynb', 'a').write('x')",
    "cuts a file": "import os\ndef $name(*a, **k):\n    os.truncate('$folder/marks.csv', 0)",
    "cuts a file as it reads": "import os\ndef $name(*a, **k):\n    os.open('$folder/marks.csv', os.O_RDONLY | os.O_TRUNC)",
    "removes files": "import shutil\ndef $name(*a, **k):\n    shutil.rmtree('$folder')",
    "moves files": "import os\ndef $name(*a, **k):\n    os.rename('$folder/marks.csv', '$folder/gone.csv')",
    "links files": "import os\ndef $name(*a, **k):\n    os.symlink('$folder/course.toml', '$folder/link')",
    "opens a secret to all": "import os\ndef $name(*a, **k):\n    os.chmod('$folder/course.toml', 0o777)",
    "changes times": "import os\ndef $name(*a, **k):\n    os.utime('$folder/other.ipynb', (1, 1))",
    "changes attributes": "import os\ndef $name(*a, **k):\n    os.setxattr('$folder/other.ipynb', 'user.x', b'1')",
    # leaving
    "calls a server": """
import socket
def $name(*a, **k):
    socket.create_connection(('127.0.0.1', $port), timeout=2).sendall(b'x')
""",
    "calls a server by its number": """
import ctypes
def $name(*a, **k):
    libc = ctypes.CDLL(None, use_errno=True)
    handle = libc.syscall(41, 2, 1, 0)
    address = b'\\x02\\x00' + ($port).to_bytes(2, 'big') + b'\\x7f\\x00\\x00\\x01' + bytes(8)
    assert libc.syscall(42, handle, address, 16) == 0
""",
    "starts a program": "import os\ndef $name(*a, **k):\n    return os.popen('cat $folder/course.toml').read()",
    "becomes a program": "import os\ndef $name(*a, **k):\n    os.execv('/bin/sh', ['sh', '-c', 'echo > $folder/new'])",
    "leaves its namespaces": """
import ctypes
def $name(*a, **k):
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.unshare(0x10000000) == 0
""",
}
