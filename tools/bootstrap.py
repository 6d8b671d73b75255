"""Makes .venv ready for the book, or says in one line why it cannot.

Standard library only, in a form that Python 3.6 can run: `make` calls it with whatever python3
there is, and an old one must end in a sentence and not in a SyntaxError.

    python3 tools/bootstrap.py                   make .venv, or see that it is ready
    python3 tools/bootstrap.py --torch 2.11.0    the same with another torch
    python3 tools/bootstrap.py --py PYTHON       make nothing: see that PYTHON has what is needed
"""
import argparse
import glob
import hashlib
import os
import re
import sys
import time

PYTHONS = ((3, 11), (3, 13))    # the first and the last version that the book runs on
TORCHES = ((2, 11), (2, 15))    # from the first up to, and not including, the second

# torch release -> the triton that it names, from `Requires-Dist` of each release's Linux wheel
# (pip install --dry-run --no-deps --ignore-installed --report - torch==X). 2.14 names ~=3.8.0.
TRITON_FOR = {"2.11.0": "3.6.0", "2.12.0": "3.7.0", "2.12.1": "3.7.1",
              "2.13.0": "3.7.1", "2.14.0": "3.8.0", "2.14.1": "3.8.0"}

# Free disk for .venv. Measured, installed: 2.3 GB with a CPU build of torch, about 5 GB with a
# CUDA build. The rest is room for unpacking, for pip's cache and for the book.
GB_CPU, GB_CUDA = 4, 10

# What --py must find, by purpose. The book renders recorded outputs and needs no torch.
LIBRARIES = ["torch", "numpy", "matplotlib"] + ["triton"] * (sys.platform == "linux")
NEEDS = {
    "book": ["jupyter_book", "sphinx_exercise", "sphinxcontrib.bibtex", "sphinx-mathjax-offline"],
    "test": LIBRARIES + ["pytest", "xdist", "nbval", "nbclient", "ipykernel", "hypothesis"],
    "bench": LIBRARIES,
    "notebooks": LIBRARIES + ["nbclient", "ipykernel"],
    "doctor": ["torch"],
}
PROBE = """if 1:
    import importlib, sys
    for name in sys.argv[1:]:
        try:
            version = getattr(importlib.import_module(name), "__version__", "")
        except Exception as error:
            version = "missing " + str(error).split("\\n")[0]
        print("found", name, version)
"""
NO_INDEX = re.compile(r"Retrying \(|NewConnectionError|Connection refused|timed out|ProxyError|"
                      r"Name or service not known|name resolution|SSLError|unreachable")
NO_SPACE = "No space left on device"
STEP = re.compile(r"Downloading \S+ \(\d\d+\.\d [MG]B\)|Installing collected packages")
START = time.time()


class Stop(Exception):
    """What is wrong and what to do, in one line."""


def run(command, **variables):
    """The exit status and the output, errors included, of a command. 127 if it cannot start."""
    import subprocess
    try:
        done = subprocess.run(command, env=dict(os.environ, **variables), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, universal_newlines=True)
    except OSError as error:
        return 127, str(error)
    return done.returncode, done.stdout


def read(path):
    """The text of a file, or nothing if it cannot be read."""
    try:
        with open(path, errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def write(path, text):
    with open(path, "w") as file:
        file.write(text)


def say(text):
    print("setup: " + text, flush=True)


# ---- which Python ----------------------------------------------------------------------------

def candidates():
    """The running Python, then each python3.13, 3.12 and 3.11 on PATH."""
    yield sys.executable
    for minor in range(PYTHONS[1][1], PYTHONS[0][1] - 1, -1):
        for folder in os.environ.get("PATH", "").split(os.pathsep):
            path = os.path.join(folder, "python3.%d" % minor)
            if os.access(path, os.X_OK):
                yield path


def find_python(paths):
    """The first of `paths` that is in range and can make a venv. A stub that fails is passed over."""
    without_venv = None
    for path in paths:
        status, said = run([path, "-c", "import sys; print('python %d.%d' % sys.version_info[:2], "
                                        "flush=True); import venv, ensurepip"])
        version = re.search(r"python (\d+)\.(\d+)", said)
        if version and PYTHONS[0] <= tuple(map(int, version.groups())) <= PYTHONS[1]:
            if status == 0:
                return path
            without_venv = without_venv or ".".join(version.groups())
    if without_venv:
        raise Stop("Python {0} cannot make a venv: install its venv module (Debian, Ubuntu: apt "
                   "install python{0}-venv), then run this again.".format(without_venv))
    raise Stop("no Python 3.11 to 3.13 found (this is %d.%d): install one and put it on PATH."
               % sys.version_info[:2])


# ---- .venv -----------------------------------------------------------------------------------

def pins(text, torch):
    """The text of requirements.txt, with the pins of torch and triton replaced if `torch` is given."""
    if not torch:
        return text
    triton = TRITON_FOR.get(torch.split("+")[0])    # "2.13.0+cu126" is a build of 2.13.0
    if not triton:
        raise Stop("TORCH=%s is not a release that this book runs on: choose one of %s."
                   % (torch, ", ".join(sorted(TRITON_FOR))))
    text = re.sub(r"(?m)^torch==\S+", "torch==" + torch, text)
    return re.sub(r"(?m)^triton==\S+", "triton==" + triton, text)


def stamp(root, venv, requirements):
    """A hash of what .venv depends on: the pins, the package, the Python, the place of the folder."""
    parts = [requirements, root, read(os.path.join(root, "pyproject.toml")),
             read(os.path.join(venv, "pyvenv.cfg"))]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def need_space(folder, gigabytes):
    import shutil
    free = shutil.disk_usage(folder).free / 1e9
    if free < gigabytes:
        raise Stop("too little disk space for .venv: %.1f GB free, %d GB needed; free some, or use "
                   "an existing Python with PY=." % (free, gigabytes))


def prepare(root, torch):
    """Make .venv ready and return its Python. Does next to nothing if it is ready already.

    The stamp says `unfinished` while work goes on, so what an interruption leaves is not trusted.
    """
    import fcntl
    venv, mark = os.path.join(root, ".venv"), os.path.join(root, ".venv", "stamp")
    python = os.path.join(venv, "bin", "python")
    requirements = pins(read(os.path.join(root, "requirements.txt")), torch)
    with open(__file__) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)    # a second `make` beside this one waits here
        whole = len(read(mark)) == 64 and os.path.exists(python)
        if not (whole and read(mark) == stamp(root, venv, requirements)):
            if not whole:
                create(root, venv, mark)
            write(mark, "unfinished")
            install(root, venv, python, requirements)
            write(mark, stamp(root, venv, requirements))
            say(".venv is ready")
    return python


def create(root, venv, mark):
    """An empty .venv. Removes a half-made one, never one that somebody else made."""
    import shutil
    if os.path.lexists(venv) and not os.path.exists(mark):
        raise Stop(".venv exists but was not made by this tool: move it away, or use it as it is "
                   "with PY=.venv/bin/python.")
    need_space(root, GB_CPU)
    python = find_python(candidates())
    if os.path.exists(venv):
        say(".venv is half-made: making it again")
        shutil.rmtree(venv)
    say("creating .venv with " + python)
    os.mkdir(venv)
    write(mark, "unfinished")
    status, said = run([python, "-m", "venv", venv])
    if status:
        raise Stop("%s could not make .venv (%s): choose another Python."
                   % (python, (said.strip() or "no reason given").splitlines()[-1]))


def install(root, venv, python, requirements):
    """Install the pins, then lorakit, with progress here and pip's own words in a log."""
    log, wanted, report = (os.path.join(venv, name) for name in
                           ("bootstrap.log", "requirements.txt", "torch.json"))
    write(log, "")
    write(wanted, requirements)
    torch = re.search(r"(?m)^torch==\S+", requirements).group()
    say("asking the package index for " + torch)
    pip(python, log, ["--dry-run", "--no-deps", "--ignore-installed", "--retries", "1",
                      "--report", report, torch])
    if re.search(r'"(nvidia|cuda)-', read(report)):    # what a CUDA build of torch depends on
        need_space(root, GB_CUDA)
    # Without --no-compile, byte code of thousands of modules that nobody imports takes a minute.
    pip(python, log, ["--no-compile", "-r", wanted])
    pip(python, log, ["--no-deps", "--no-build-isolation", "-e", root])


def pip(python, log, arguments):
    """`pip install` with `arguments`. Shows the running step and its seconds; fails in one line."""
    import subprocess
    before, shown, last = len(read(log)), "choosing versions", time.time()
    with open(log, "a") as file:
        process = subprocess.Popen([python, "-m", "pip", "install", "--no-input"] + arguments,
                                   stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT)
        while process.poll() is None:
            time.sleep(0.1)
            step = (STEP.findall(read(log)[before:]) or ["choosing versions"])[-1]
            if step != shown or time.time() > last + 15:
                shown, last = step, time.time()
                say("%4d s  %s" % (last - START, re.sub(r"-cp3\S+", "", step)))
    if process.returncode == 0:
        return
    said = read(log)[before:]
    errors = re.findall(r"(?m)^ERROR: (.*)", said) or said.strip().splitlines() or ["no reason given"]
    if NO_SPACE in said:
        what = "the disk filled up; free space for .venv, TMPDIR and pip's cache, then run this again"
    elif NO_INDEX.search(said):
        what = ("the package index cannot be reached; check the network and PIP_INDEX_URL, or use "
                "an existing Python with PY=")
    else:
        what = "pip could not install: %s; try again after a look at the log" % errors[-1].rstrip(".")
    raise Stop("%s (log: %s)." % (what, os.path.relpath(log)))


# ---- an existing Python, and the driver ------------------------------------------------------

def inspect(python, purpose):
    """See that an existing Python has what `purpose` needs. Installs nothing."""
    status, said = run([python, "-c", "import sys; print('found python %d.%d' % sys.version_info[:2])\n"
                        + PROBE] + NEEDS[purpose])
    found = dict(re.findall(r"(?m)^found (\S+) ?(.*)", said))
    if "python" not in found:
        raise Stop("PY=%s does not run: name a Python 3.11 to 3.13." % python)
    missing = [name for name in NEEDS[purpose] if found.get(name, "missing").startswith("missing")]
    version = tuple(map(int, found["python"].split(".")))
    torch = tuple(map(int, re.findall(r"\d+", found.get("torch", ""))[:2])) or TORCHES[0]
    if not PYTHONS[0] <= version <= PYTHONS[1]:
        raise Stop("PY=%s is Python %s: name a Python 3.11 to 3.13." % (python, found["python"]))
    if missing:
        raise Stop("PY=%s lacks %s: install with its pip the pins of requirements.txt, or leave PY "
                   "out." % (python, ", ".join(missing)))
    if not TORCHES[0] <= torch < TORCHES[1]:
        raise Stop("PY=%s has torch %s: the book runs on torch from 2.11 up to, not including, 2.15."
                   % (python, found["torch"]))


def warn_of_driver(root, python):
    """One line if an NVIDIA GPU is here that torch cannot use. The book itself needs none.

    The answer is kept in .venv for as long as driver and environment stay: importing torch is slow.
    """
    if not glob.glob("/dev/nvidia[0-9]*"):
        return
    kept = os.path.join(root, ".venv", "driver.ok")
    state = read(os.path.join(root, ".venv", "stamp")) + read("/proc/driver/nvidia/version")
    if python.startswith(os.path.join(root, ".venv")) and read(kept) == state:
        return
    paths = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    said = run([python, "-m", "lorakit.doctor", "driver"], PYTHONPATH=paths)[1].strip()
    if said.startswith("ok") and os.path.isdir(os.path.dirname(kept)):
        write(kept, state)
    elif said.startswith(("warn", "FAIL")):
        say("warning: " + " ".join(said.splitlines()[0].split()[1:]))


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--py", default="", help="an existing Python to use in place of .venv")
    parser.add_argument("--torch", default="", help="a torch release in place of the pinned one")
    parser.add_argument("--for", dest="purpose", default="test", choices=sorted(NEEDS))
    parser.add_argument("--root", default=os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    options = parser.parse_args(arguments)
    try:
        if options.py and options.torch:
            raise Stop("TORCH= chooses what .venv gets, and PY= uses no .venv: give one of the two.")
        if options.py:
            inspect(options.py, options.purpose)
        python = options.py or prepare(options.root, options.torch)
        if options.purpose != "book":
            warn_of_driver(options.root, python)
    except Stop as stop:
        print("setup: " + str(stop), file=sys.stderr)
        return 1
    except OSError as error:
        print("setup: cannot write %s (%s): make that place writable, or use an existing Python "
              "with PY=." % (error.filename, error.strerror), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("setup: interrupted; the next run makes .venv again.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
