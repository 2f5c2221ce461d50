-- `make install` (not stock: once is enough): what it puts on a machine is all that C and C++
-- programs, and stock luajit, need of Tidepool.

local lfs = require "lfs"
local support = require "tests.support"

local root, destdir = support.temp_dir(), support.temp_dir()
local prefix = "/opt/tidepool"
local at = destdir .. prefix

--- Runs a shell command; its output, both kinds, and whether it went well.
local function shell(command)
  local pipe = assert(io.popen(("{ %s\n} 2>&1; echo \" $?\""):format(command)))
  local output, code = pipe:read("*a"):match "^(.*) (%d+)\n$"
  pipe:close()
  return output, code == "0"
end

local function run(command)
  local output, fine = shell(command)
  assert(fine, command .. "\n" .. output)
  return output
end

-- What stock luajit says at the end of a script that has left a call; before what is in the buffer
-- of stdout, here.
local dropped = "tidepool: the program has ended before %s: what is to be waited for, tidepool.loop() waits for\n"

local function read(path)
  return assert(support.read_file(path), path)
end

--- Where programs find what was installed.
local environment = ("export PKG_CONFIG_PATH=%s/lib/pkgconfig LD_LIBRARY_PATH=%s/lib; "):format(at, at)

--- Builds a program of examples/embed, or of another folder, with the compiler's warnings as
-- errors; its path.
local function build(name, packages, flags)
  local source = name:find "/" and name or "examples/embed/" .. name
  local program = root .. "/" .. name:match "([^./]+)%.%a+$"
  local compiler = name:find "%.cpp$" and "c++ -std=c++17" or "cc -std=gnu99"
  run(("%s%s -Wall -Wextra -pedantic -Werror %s -o %s $(pkg-config --cflags --libs %s) %s"):format(environment, compiler, source,
    program, packages or "tidepool", flags or ""))
  return program
end

--- What the comment at the top of an example says that it prints.
local function promised(name)
  local lines = {}
  for line in read(name:find "/" and name or "examples/embed/" .. name):gmatch "[^\n]+" do
    local text = line:match "prints: (.-)%s*%*/$" or line:match "prints: (.*)"
    if text then lines[#lines + 1] = text end
  end
  return table.concat(lines, "\n") .. "\n"
end

it("the version stands in one place", function()
  local version = read "host/tidepool.h":match 'TP_VERSION "(.-)"'
  assert.matches("^%d+%.%d+%.%d+$", version)
  assert.equal(version, require("tidepool")._VERSION)
  assert.matches("## " .. version, read "CHANGELOG.md", 1, true)
  assert.matches("^tidepool %(" .. version:gsub("%.", "%%.") .. "%-%d+%)", read "debian/changelog")
  assert.matches("\nPackage: libtidepool" .. version:match "^%d+" .. "\n", read "debian/control")
  assert.is_truthy(lfs.attributes "LICENSE")
end)

if support.sanitized then return end -- what is installed is the plain build

describe("make install", function()
  lazy_setup(function()
    run(("make -s install DESTDIR=%s PREFIX=%s"):format(destdir, prefix))
  end)

  it("installs what is needed, and nothing outside of its prefix", function()
    local paths = run(("cd %s && find . -type f -o -type l | grep -v /share/ | sort"):format(at))
    local version = run(environment .. "pkg-config --modversion tidepool"):match "%S+"
    assert.equal(([[
./bin/tidepool
./include/tidepool.h
./lib/cmake/tidepool/tidepool-config-version.cmake
./lib/cmake/tidepool/tidepool-config.cmake
./lib/libtidepool.a
./lib/libtidepool.so
./lib/libtidepool.so.%s
./lib/libtidepool.so.%s
./lib/lua/5.1/tidepool.so
./lib/pkgconfig/tidepool.pc
./lib/systemd/system/tidepool-worker@.service
]]):format(version:match "^%d+", version), paths)
    assert.equal("opt\n", run("ls -A " .. destdir))
    assert.equal(version, read "host/tidepool.h":match 'TP_VERSION "(.-)"')
    assert.matches("SONAME.*libtidepool.so." .. version:match "^%d+" .. "\n", run(("objdump -p %s/lib/libtidepool.so | grep SONAME"):format(at)))
  end)

  it("and the programs of examples/embed are built by pkg-config alone, and do what they say", function()
    for _, example in ipairs { { "smallest.c" }, { "integrate.c", "tidepool", "-lm" }, { "words.cpp" } } do
      assert.equal(promised(example[1]), run(environment .. build(unpack(example))))
    end
  end)

  it("and so are bindings of other languages, where those are there", function()
    for _, example in ipairs { { "primes.py", "python3" }, { "collatz.go", "go", " run" } } do
      local name, program, words = example[1], example[2], example[3] or ""
      if shell("command -v " .. program) ~= "" then
        assert.equal(promised(name), run(("%s GOCACHE=%s/go timeout 600 %s%s examples/embed/%s"):format(environment, root, program, words, name)))
      end
    end
  end)

  it("and what a program throws out of what the host calls leaves the host usable", function()
    assert.equal(promised "tests/embed/throws.cpp", run(environment .. build "tests/embed/throws.cpp"))
  end)

  it("and the program of README.md is the smallest of them", function()
    local shown = read "README.md":match "\n```c\n(.-)```"
    assert.equal(read "examples/embed/smallest.c":match "%*/\n(.*)$", shown)
  end)

  it("and a program may be linked to the static library", function()
    local program = root .. "/static"
    run(("%scc examples/embed/smallest.c -o %s $(pkg-config --cflags tidepool) %s/lib/libtidepool.a " ..
      "$(pkg-config --static --libs tidepool | sed s/-ltidepool//)"):format(environment, program, at))
    assert.equal(promised "smallest.c", run(program))
  end)

  it("and CMake finds it, and refuses it to who needs a newer one", function()
    if shell "command -v cmake" == "" then return end
    local folder = root .. "/cmake"
    local function configure(version)
      run("mkdir -p " .. folder)
      local file = assert(io.open(folder .. "/CMakeLists.txt", "w"))
      file:write(([[
cmake_minimum_required(VERSION 3.13)
project(smallest C)
find_package(tidepool %s REQUIRED)
add_executable(smallest %s/examples/embed/smallest.c)
target_link_libraries(smallest tidepool::tidepool)
]]):format(version, lfs.currentdir()))
      file:close()
      return shell(("cmake -S %s -B %s/build -DCMAKE_PREFIX_PATH=%s"):format(folder, folder, at))
    end
    local output, fine = configure "99.0"
    assert.is_false(fine)
    assert.matches("version: 0", output, 1, true)
    output, fine = configure ""
    assert(fine, output)
    run(("cmake --build %s/build"):format(folder))
    assert.equal(promised "smallest.c", run(folder .. "/build/smallest"))
  end)

  it("tells the loader of the libraries, but not where they are only packed", function()
    local FIND = " 2>&1 | grep -c ldconfig || true"
    assert.equal("1", (run("make -n install" .. FIND):gsub("%s", "")))
    assert.equal("0", (run("make -n install DESTDIR=" .. root .. FIND):gsub("%s", "")))
  end)

  it("and libraries may lie in a folder of their own, as Debian has it", function()
    local there = root .. "/multiarch"
    run(("make -s install DESTDIR=%s PREFIX=/usr LIBDIR=/usr/lib/some-arch"):format(there))
    for name, folder in pairs { includedir = "/usr/include", libdir = "/usr/lib/some-arch" } do
      local said = run(("PKG_CONFIG_PATH=%s/usr/lib/some-arch/pkgconfig pkg-config --variable=%s tidepool"):format(there, name))
      assert.equal(run("realpath " .. there .. folder), run("realpath " .. said))
    end
    assert.equal(4, run([[env -u TIDEPOOL_WORKER LUA_CPATH="]] .. there .. [[/usr/lib/some-arch/lua/5.1/?.so;;" luajit -e '
      local app = require("tidepool").App "x"
      print(app:func { executor = "processes" } (function(x) return x * x end)(2))']]) + 0)
    run(("make -s uninstall DESTDIR=%s PREFIX=/usr LIBDIR=/usr/lib/some-arch"):format(there))
    assert.equal("", run(("find %s -type f -o -type l"):format(there)))
  end)

  it("and sources in another folder, without git, give the same files byte by byte", function()
    local copy = root .. "/sources"
    run(("mkdir %s && tar -c --exclude=./build --exclude=./.git . | tar -x -C %s && make -s -C %s -j2 all docs"):format(copy, copy, copy))
    for _, file in ipairs { "tidepool", "module/tidepool.so", "libtidepool.a", "reference.md" } do
      assert.equal("", shell(("cmp build/%s %s/build/%s"):format(file, copy, file)))
    end
  end)

  it("and a server answers from its own loop, many clients at once", function()
    local program, socket = build("server.c", "tidepool libuv"), root .. "/socket"
    local client = root .. "/client.lua"
    local file = assert(io.open(client, "w"))
    file:write [[
      local uv = require "luv"
      local path, clients, lines = arg[1], 5, 40
      local wrong, open = 0, clients
      local function talk(id)
        local pipe, got, n = uv.new_pipe(false), "", 0
        pipe:connect(path, function(err)
          assert(not err, err)
          for i = 1, lines do pipe:write(("%d * 1000 + %d\n"):format(id, i)) end
          pipe:write "error('no')\n"
          pipe:read_start(function(err, data)
            assert(not err, err)
            got = got .. (data or "")
            for line in got:gmatch "(.-)\n" do
              n = n + 1
              local id_got = tonumber(line) and math.floor(tonumber(line) / 1000)
              if id_got ~= id and not line:find "^compute:3: no$" then wrong = wrong + 1 end
            end
            got = got:match "[^\n]*$"
            if n < lines + 1 then return end
            open = open - 1
            if open == 0 then pipe:write "quit\n" end
            pipe:shutdown(function() pipe:close() end)
          end)
        end)
      end
      for id = 1, clients do talk(id) end
      uv.run()
      print(wrong, open)
    ]]
    file:close()
    local output = run(("%s timeout 300 %s %s & server=$!; for i in $(seq 100); do test -S %s && break; sleep 0.1; done; " ..
      "timeout 300 luajit %s %s; wait $server; echo ended $?"):format(environment, program, socket, socket, client, socket))
    assert.equal("0\t0\nended 0\n", output)
  end)

  it("and stock luajit finds the module", function()
    local cpath = ("LUA_CPATH='%s/lib/lua/5.1/?.so;;' "):format(at)
    assert.equal("hi\t3\n9\n", run(cpath .. [[luajit -e 'local tidepool = require "tidepool"
      local f = tidepool.App("t"):func(function(x) print("hi", x) return x * x end)
      print((f:remote(3)))']]))
    assert.equal("", run(("objdump -p %s/lib/lua/5.1/tidepool.so | grep 'NEEDED.*luajit' || true"):format(at)))
  end)

  it("and another Lua is told what is wrong", function()
    for _, lua in ipairs { "lua5.1", "lua5.2", "lua5.3", "lua5.4" } do
      if shell("command -v " .. lua) ~= "" then
        local output, fine = shell(("LUA_CPATH='%s/lib/lua/5.1/?.so' %s -e 'require \"tidepool\"'"):format(at, lua))
        assert.is_false(fine)
        assert.matches("tidepool needs LuaJIT 2.1, and this is another Lua", output, 1, true)
      end
    end
  end)

  it("and a state that is closed with a map running leaves nothing behind", function()
    local cpath = ("LUA_CPATH='%s/lib/lua/5.1/?.so;;' "):format(at)
    assert.equal(dropped:format "1 spawned map" .. "done\n", run(cpath .. [[timeout 300 luajit -e 'local tidepool = require "tidepool"
      local f = tidepool.App("t"):func(function(x) return x end)
      local all = f:spawn_map(tidepool.range(1e9))
      all:next()
      print("done")']]))
  end)

  it("and what a script in stock luajit drops at its end is told, unless it has waited", function()
    local cpath = ("LUA_CPATH='%s/lib/lua/5.1/?.so;;' "):format(at)
    local script = root .. "/drops.lua"
    local function output_of(last_line)
      local file = assert(io.open(script, "w"))
      file:write([[
        local tidepool = require "tidepool"
        local app = tidepool.App "t"
        local fails = app:func { name = "fails" } (function(x) error("failed " .. x, 0) end)
        local call = fails:spawn "call"
        local read = fails:spawn "that was read"
        fails:with { retries = 1 }:map { 1 }
        pcall(read.get, read)
        repeat tidepool.sleep(0.001) until call:done()
        tidepool.async(error, "failed task", 0)
        tidepool.async(tidepool.sleep, 0.01)
        tidepool.event():fail "failed event"
      ]], last_line)
      file:close()
      return run(cpath .. "timeout 300 luajit " .. script)
    end
    local output = output_of ""
    for _, text in ipairs { "tidepool: failed call\nin input 1 of map 'fails'", "tidepool: failed task\n", "tidepool: failed event\n",
      "tidepool: the program has ended before 1 task: what is to be waited for, tidepool.loop() waits for\n",
      "drops.lua:6: the results of this map of 'fails' were never read" } do
      assert.is_truthy(output:find(text, 1, true), text .. " in\n" .. output)
    end
    assert.is_nil(output:find "that was read", output)
    output = output_of "tidepool.loop()"
    assert.equal(1, select(2, output:gsub("tidepool:", "")), output) -- of the map, by tidepool.loop
  end)

  it("and of calls, maps and tasks that are left how many there are of each, without those that were cancelled", function()
    local cpath = ("LUA_CPATH='%s/lib/lua/5.1/?.so;;' "):format(at)
    assert.equal(dropped:format "1 task, 1 spawned call and 2 spawned maps", run(cpath .. [[timeout 300 luajit -e 'local tidepool = require "tidepool"
      local f = tidepool.App("t"):func(function(x) while true do end end)
      local function endless() return 1 end
      f:spawn_map(endless) f:spawn_map { 1, 2 } f:spawn(1) tidepool.async(tidepool.sleep, 100)
      f:spawn_map(endless):cancel() f:spawn(2):cancel()']]))
  end)

  it("and a state that is closed does not wait for an item that never ends", function()
    local cpath = ("LUA_CPATH='%s/lib/lua/5.1/?.so;;' "):format(at)
    local started = root .. "/started"
    assert.equal(dropped:format "1 spawned call" .. "done\nended 0\n", run(cpath .. ([[timeout 300 luajit -e 'local tidepool = require "tidepool"
      local f = tidepool.App("t"):func(function(path) io.open(path, "w"):close() while true do end end)
      f:spawn("%s")
      repeat tidepool.sleep(0.01) until io.open("%s")
      print("done")'; echo ended $?]]):format(started, started)))
  end)

  it("and make uninstall removes it all", function()
    local other = support.temp_dir()
    run(("make -s install uninstall DESTDIR=%s PREFIX=%s"):format(other, prefix))
    assert.equal("", run(("find %s -type f -o -type l"):format(other)))
  end)

  it("and a program may load and unload the library 100 times", function()
    local source = root .. "/dl.c"
    local file = assert(io.open(source, "w"))
    file:write [[
      #include <dlfcn.h>
      #include <stdio.h>
      #include <string.h>
      #include <tidepool.h>
      static long held(const char *field)
      {
          char line[200];
          long n = 0;
          FILE *f = fopen("/proc/self/status", "r");
          while (fgets(line, sizeof line, f))
              if (strncmp(line, field, strlen(field)) == 0)
                  sscanf(line + strlen(field), "%ld", &n);
          fclose(f);
          return n;
      }
      int main(int argc, char **argv)
      {
          long rss = 0;
          (void)argc;
          for (int i = 0; i < 100; i++) {
              void *lib = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
              int (*open_host)(tp_host **, const tp_config *, tp_error *);
              int (*run)(tp_host *, const char *, size_t, const char *, tp_error *);
              void (*close_host)(tp_host *);
              tp_host *host;
              tp_error err = { TP_OK, "" };
              const char code[] = "local f = require('tidepool').App('t'):func(function(x) return x end)"
                                  "assert(f:map({ 1, 2, 3 }):list()[3] == 3)";
              if (!lib) return puts(dlerror()), 1;
              *(void **)&open_host = dlsym(lib, "tp_host_open");
              *(void **)&run = dlsym(lib, "tp_host_run_string");
              *(void **)&close_host = dlsym(lib, "tp_host_close");
              if (open_host(&host, NULL, &err) || run(host, code, sizeof code - 1, NULL, &err)) return puts(err.message), 1;
              close_host(host);
              if (dlclose(lib)) return 1;
              if (i == 20) rss = held("VmRSS:");
          }
          if (held("Threads:") != 1) return puts("threads are left"), 1;
          if (held("VmRSS:") > rss + 4096) return printf("grew by %ld KiB\n", held("VmRSS:") - rss), 1;
          return 0;
      }
    ]]
    file:close()
    run(("%scc %s -o %s/dl $(pkg-config --cflags tidepool) -ldl && %s/dl %s/lib/libtidepool.so"):format(environment, source, root, root, at))
  end)
end)
