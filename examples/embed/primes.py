"""primes.py: Tidepool from Python, by ctypes alone. A binding in some hundred lines, and a program that uses it: it waits for results, for so long at most,
and has them come to a callback in asyncio's loop.

    LD_LIBRARY_PATH=/usr/local/lib python3 primes.py

prints: below 1000 there are 168 primes, the last one is 997
prints: below 2000 there are 303 primes, the last one is 1999
prints: failed: input 2: a number of at least 2, please
prints: nothing within 20 ms; later: ['done']
prints: the loop went on while 40 results came, in their order
"""
import asyncio
import ctypes
from ctypes import (CFUNCTYPE, POINTER, Structure, Union, byref, c_char, c_char_p, c_double, c_int, c_size_t, c_uint, c_void_p,
                    sizeof)

lib = ctypes.CDLL("libtidepool.so.0")

# ---- what tidepool.h declares ----

NIL, BOOLEAN, NUMBER, BYTES, LIST, TABLE = range(6)
RESULT, END, FAILED, REFUSED, TIMEOUT = 1, 0, -1, -2, -3


class Value(Structure):
    pass


class Pair(Structure):
    pass


class As(Union):
    _fields_ = [("boolean", c_int), ("number", c_double), ("bytes", c_void_p), ("items", POINTER(Value)), ("pairs", POINTER(Pair))]


Value._fields_ = [("kind", c_int), ("n", c_size_t), ("as_", As)]
Pair._fields_ = [("key", Value), ("value", Value)]


class Error(Structure):
    _fields_ = [("code", c_int), ("message", c_char * 500)]


class Config(Structure):  # the fields up to the last that is used: size says how many there are
    _fields_ = [("size", c_size_t), ("workers", c_int), ("write", c_void_p), ("user", c_void_p), ("loop", c_void_p)]


class Failure(Structure):
    _fields_ = [("kind", c_char_p), ("message", c_char_p), ("traceback", c_char_p), ("text", c_char_p), ("index", c_size_t),
                ("attempts", c_uint), ("value", Value)]


class Result(Structure):
    _fields_ = [("index", c_size_t), ("values", POINTER(Value)), ("n", c_size_t), ("failure", POINTER(Failure))]


MapCallback = CFUNCTYPE(None, c_void_p, c_void_p, c_int, POINTER(Result))


def declare(name, result, *arguments):
    function = getattr(lib, name)
    function.restype, function.argtypes = result, arguments


declare("tp_host_open", c_int, POINTER(c_void_p), POINTER(Config), POINTER(Error))
declare("tp_host_close", c_int, c_void_p)
declare("tp_host_fd", c_int, c_void_p)
declare("tp_host_timeout", c_int, c_void_p)
declare("tp_host_step", c_int, c_void_p, POINTER(Error))
declare("tp_function_from_lua", c_int, POINTER(c_void_p), c_void_p, c_char_p, c_char_p, POINTER(Value), POINTER(Error))
declare("tp_map_values", c_int, POINTER(c_void_p), c_void_p, POINTER(Value), c_size_t, c_size_t, POINTER(Value), POINTER(Error))
declare("tp_map_next", c_int, c_void_p, POINTER(Result), POINTER(Error))
declare("tp_map_next_timeout", c_int, c_void_p, POINTER(Result), c_uint, POINTER(Error))
declare("tp_map_on_result", c_int, c_void_p, MapCallback, c_void_p, POINTER(Error))
declare("tp_map_failure", POINTER(Failure), c_void_p)
declare("tp_map_close", None, c_void_p)

# ---- values ----


def to_value(x, keep):
    """A Value; what it points to is appended to `keep`, and must live as long as it."""
    value = Value(NIL, 0)
    if isinstance(x, bool):
        value.kind, value.as_.boolean = BOOLEAN, x
    elif isinstance(x, (int, float)):
        value.kind, value.as_.number = NUMBER, x
    elif isinstance(x, (str, bytes)):
        data = ctypes.create_string_buffer(x.encode() if isinstance(x, str) else x)
        keep.append(data)
        value.kind, value.n, value.as_.bytes = BYTES, sizeof(data) - 1, ctypes.addressof(data)
    elif isinstance(x, (list, tuple)):
        items = (Value * len(x))(*[to_value(item, keep) for item in x])
        keep.append(items)
        value.kind, value.n, value.as_.items = LIST, len(x), items
    elif isinstance(x, dict):
        pairs = (Pair * len(x))(*[Pair(to_value(k, keep), to_value(v, keep)) for k, v in x.items()])
        keep.append(pairs)
        value.kind, value.n, value.as_.pairs = TABLE, len(x), pairs
    elif x is not None:
        raise TypeError(f"a {type(x).__name__} has no counterpart in Lua")
    return value


def from_value(value):
    if value.kind == BOOLEAN:
        return value.as_.boolean != 0
    if value.kind == NUMBER:
        number = value.as_.number
        return int(number) if number.is_integer() else number
    if value.kind == BYTES:
        return ctypes.string_at(value.as_.bytes, value.n).decode(errors="surrogateescape")
    if value.kind == LIST:
        return [from_value(value.as_.items[i]) for i in range(value.n)]
    if value.kind == TABLE:
        return {from_value(value.as_.pairs[i].key): from_value(value.as_.pairs[i].value) for i in range(value.n)}
    return None


def values_of(result):
    values = [from_value(result.values[i]) for i in range(result.n)]
    return values[0] if len(values) == 1 else values


# ---- the binding ----


class TidepoolError(Exception):
    """What a call, or an input, has failed with; index: which input, from 0, or None."""

    def __init__(self, message, index=None):
        super().__init__(message)
        self.index = index


def check(rc, err):
    if rc < 0:
        raise TidepoolError(err.message.decode(errors="replace"))


class Map:
    """The results of a map: iterated over, read with `next`, or, in a coroutine, with `async for`."""

    def __init__(self, host, function, rows, options):
        self.host, self.keep, self.handle, err = host, [], c_void_p(), Error()
        width = len(rows[0]) if rows else 0
        flat = [to_value(x, self.keep) for row in rows for x in row]
        self.inputs = (Value * len(flat))(*flat)  # stay until the map is closed, as what they point to does
        table = to_value(options, self.keep)
        check(lib.tp_map_values(byref(self.handle), function, self.inputs, width, len(rows), byref(table), byref(err)), err)

    def _raise(self, err):
        failure = lib.tp_map_failure(self.handle)
        index = failure.contents.index if failure else None
        raise TidepoolError(err.message.decode(errors="replace"), index)

    def next(self, timeout=None):
        """The next result; StopIteration at the end, TimeoutError after so many seconds. It goes on then."""
        result, err = Result(), Error()
        if timeout is None:  # other threads of Python run meanwhile: ctypes lets them
            status = lib.tp_map_next(self.handle, byref(result), byref(err))
        else:
            status = lib.tp_map_next_timeout(self.handle, byref(result), int(timeout * 1000), byref(err))
        if status == RESULT:
            return values_of(result)
        if status == END:
            raise StopIteration
        if status == TIMEOUT:
            raise TimeoutError(err.message.decode())
        self._raise(err)

    def __iter__(self):
        return self

    __next__ = next

    async def __aiter__(self):
        queue, err = asyncio.Queue(), Error()

        def on_result(_user, _map, status, result):
            if status == RESULT:
                queue.put_nowait((status, values_of(result.contents)))
            else:
                failure = lib.tp_map_failure(self.handle)
                queue.put_nowait((status, failure and TidepoolError(failure.contents.message.decode(), failure.contents.index)))

        self.callback = MapCallback(on_result)  # C calls it for as long as the map runs
        self.host.attach(asyncio.get_running_loop())
        check(lib.tp_map_on_result(self.handle, self.callback, None, byref(err)), err)
        while True:
            status, value = await queue.get()
            if status == FAILED:
                raise value
            if status == END:
                return
            yield value

    def close(self):
        lib.tp_map_close(self.handle)
        self.handle = None


class Host:
    def __init__(self, workers=0):
        self.handle, self.loop, self.timer, err = c_void_p(), None, None, Error()
        config = Config(size=sizeof(Config), workers=workers)
        check(lib.tp_host_open(byref(self.handle), byref(config), byref(err)), err)

    def function(self, name, source, **options):
        """A function of Lua source, as one of Python: f.map(rows) runs it over many inputs, each a list of arguments."""
        handle, keep, err = c_void_p(), [], Error()
        table = to_value(options, keep)
        check(lib.tp_function_from_lua(byref(handle), self.handle, name.encode(), source.encode(), byref(table), byref(err)), err)
        return lambda rows, **given: Map(self, handle, rows, given)

    def attach(self, loop):
        """Has asyncio drive the host."""
        if self.loop is None:
            self.loop = loop
            loop.add_reader(lib.tp_host_fd(self.handle), self._step)
        self._plan()

    def _step(self):
        err = Error()
        check(lib.tp_host_step(self.handle, byref(err)), err)
        self._plan()

    def _plan(self):
        """The descriptor says when something has happened; tp_host_timeout when to step although nothing has."""
        if self.timer:
            self.timer.cancel()
        ms = lib.tp_host_timeout(self.handle)
        self.timer = self.loop.call_later(ms / 1000, self._step) if ms >= 0 else None

    def detach(self):
        if self.timer:
            self.timer.cancel()
        self.loop.remove_reader(lib.tp_host_fd(self.handle))
        self.loop = self.timer = None

    def close(self):
        code = lib.tp_host_close(self.handle)
        if code:
            raise TidepoolError(f"the host cannot be closed here: code {code}")


# ---- a program ----

COUNT_PRIMES = """
return function(below)
  if below < 2 then error("a number of at least 2, please", 0) end
  local count, last = 0, nil
  for n = 2, below - 1 do
    local is_prime = true
    for d = 2, math.sqrt(n) do
      if n % d == 0 then is_prime = false break end
    end
    if is_prime then count, last = count + 1, n end
  end
  return { count = count, last = last }
end"""

WAIT_FOR = """
return function(path) -- of a file that is not there yet
  local file
  repeat file = io.open(path) until file
  file:close()
  return "done"
end"""


async def count_in_the_loop(host, count_primes):
    ticks, going = 0, True

    async def tick():
        nonlocal ticks
        while going:
            ticks += 1
            await asyncio.sleep(0)

    ticker = asyncio.create_task(tick())
    numbers = [1000 + i for i in range(40)]
    results = [found["count"] async for found in count_primes([[n] for n in numbers])]
    going = False
    await ticker
    host.detach()
    assert results == sorted(results) and ticks > 0
    print(f"the loop went on while {len(results)} results came, in their order")


def main():
    import os
    import tempfile

    host = Host(workers=2)
    count_primes = host.function("count_primes", COUNT_PRIMES, concurrency_limit=2)
    for n, found in zip((1000, 2000), count_primes([[1000], [2000]])):
        print(f"below {n} there are {found['count']} primes, the last one is {found['last']}")
    try:
        list(count_primes([[10], [1], [20]]))
    except TidepoolError as error:
        print(f"failed: {error}")
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "go")
        waits = host.function("wait_for", WAIT_FOR)([[path]])
        try:
            waits.next(timeout=0.02)
        except TimeoutError:
            open(path, "w").close()
            print(f"nothing within 20 ms; later: {list(waits)}")
    asyncio.run(count_in_the_loop(host, count_primes))
    host.close()


main()
