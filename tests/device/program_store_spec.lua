--- Compiled programs on disk (not stock: scripts of the program): taken only from where nobody else
-- can have put them. Each run is a process of its own, with a cache and a key of its own, and tells
-- by an OpenCL that keeps a log (tests/opencl/faults.c) whether it compiled ("source") or took what
-- was kept ("binary").

local bit = require "bit"
local devices = require "tests.support_device"
local lfs = require "lfs"
local shell = require "tests.cli.shell"
local support = require "tests.support"

local contains, quote, run = support.contains, shell.quote, shell.run

-- Under a sanitizer these processes would be seen by it too, PoCL's compiler in them.
local on_pocl = devices.on_pocl(it, pending)

local is_root = io.popen "id -u":read "*l" == "0"
local can_switch = devices.has_pocl and is_root and os.execute "setpriv --reuid=65534 --regid=65534 --clear-groups true 2>/dev/null" == 0
local as_root = devices.specs(it, pending, can_switch, "needs PoCL, and root, who can give files away")

local function write(path, bytes)
  local file = assert(io.open(path, "wb"))
  file:write(bytes)
  file:close()
end

local function sh(command)
  assert.equal(0, os.execute(command))
end

describe("a program that is kept on disk", function()
  local faults, pocl_cache

  setup(function()
    local dir = support.temp_dir()
    faults, pocl_cache = dir .. "/libfaults.so", dir .. "/pocl"
    sh(("cc -shared -fPIC -D_GNU_SOURCE -o %s tests/opencl/faults.c -Wl,--no-as-needed -l:libOpenCL.so.1 -ldl"):format(faults))
    sh(("chmod 755 %s"):format(dir))
  end)

  --- Where one user has things: { dir =, cache = the folder of the programs, key = its file }.
  local function new_home()
    local dir = support.temp_dir()
    return { dir = dir, cache = dir .. "/cache/tidepool", key = dir .. "/state/tidepool/cache-key" }
  end

  local JOB = [[
    local f = require "tidepool".App():func { gpu = "cpu", name = "f" } (function(x) return x * 2 + 0 + BY * 1.5 end)
    print(f:map({ 1, 2 }):list()[1])
  ]]

  --- Runs x * 2 + `by` * 1.5 of 1 in a process of its own. Gives "source" or "binary", and what it
  -- said on standard error.
  local function compute(home, by, options, environment)
    local log = support.temp_path()
    local done = run(("rm -f %s; POCL_CACHE_DIR=%s TIDEPOOL_OPENCL=%s FAULTS_LOG=%s XDG_CACHE_HOME=%s/cache XDG_STATE_HOME=%s/state %s $T %s job.lua")
      :format(log, pocl_cache, faults, log, home.dir, home.dir, environment or "", options or "--verbose"), { ["job.lua"] = JOB:gsub("BY", by) })
    assert.equal(("%.14g\n"):format(2 + by * 1.5), done.stdout)
    local notes = support.notes(log)
    return notes[#notes], done.stderr
  end

  local function kept_in(home)
    local list = {}
    for name in lfs.dir(home.cache) do
      if name:find "%.clbin$" then list[#list + 1] = home.cache .. "/" .. name end
    end
    table.sort(list)
    return list
  end

  --- A home with one program, and its path.
  local function new_kept(by)
    local home = new_home()
    assert.same({ "source", "" }, { compute(home, by or 1) })
    local list = kept_in(home)
    assert.equal(1, #list)
    return home, list[1]
  end

  --- It is compiled again, with one line that says why, if one asks for that; and is kept anew.
  local function is_refused(home, words)
    local how, said = compute(home, 1)
    assert.equal("source", how)
    contains(said, "tidepool: ", words)
    assert.equal(1, select(2, said:gsub("\n", "")))
  end

  on_pocl("is used by the next process, in folders and files that are its user's alone", function()
    local home, path = new_kept()
    assert.same({ "binary", "" }, { compute(home, 1) })
    assert.same({ "source", "" }, { compute(home, 2) })
    assert.same({ "binary", "" }, { compute(home, 2) })
    local modes = run(("stat -c %%a %s %s %s %s/state/tidepool"):format(path, home.cache, home.key, home.dir)).stdout
    assert.equal("600\n700\n600\n700\n", modes)
    assert.equal(32, lfs.attributes(home.key, "size"))
    for name in lfs.dir(home.cache) do assert.is_nil(name:find("new", 1, true)) end
  end)

  on_pocl("is kept by a script that ends at once, with os.exit too", function()
    local home = new_home()
    for i, ending in ipairs { "", "os.exit(0)" } do
      local command = ("POCL_CACHE_DIR=%s/pocl%d XDG_CACHE_HOME=%s/cache XDG_STATE_HOME=%s/state $T job.lua"):format(home.dir, i, home.dir, home.dir)
      run(command, { ["job.lua"] = ([[
        local f = require "tidepool".App():func { gpu = "cpu", name = "f" } (function(x)
          return x + %d
        end)
        f:map({ 1 }):list()
        %s
      ]]):format(i, ending) })
      assert.equal(i, #kept_in(home), ending)
    end
  end)

  on_pocl("does not hold the end of a script whose kernel never ends", function()
    local home = new_home()
    local command = "POCL_CACHE_DIR=%s XDG_CACHE_HOME=%s/cache XDG_STATE_HOME=%s/state timeout 200 $T job.lua"
    local done = run(command:format(pocl_cache, home.dir, home.dir), { ["job.lua"] = [[
        local tidepool = require "tidepool"
        local f = tidepool.App():func { gpu = "cpu", name = "f" } (function(x)
          while x > 0 do x = x + 1 end
          return x
        end)
        f:spawn_map { 1 }
        tidepool.sleep(0.5)
        print "end"
        os.exit(0)
      ]] })
    assert.same({ 0, "end\n", "" }, { done.code, done.stdout, done.stderr })
  end)

  on_pocl("is not taken when a byte of it is another, or its end is missing", function()
    local home, path = new_kept()
    local good = support.read_file(path)
    local middle = math.floor(#good / 2) -- every byte, and every length, is in tests/c/program_store_test.c
    local flipped = good:sub(1, middle - 1) .. string.char(bit.bxor(good:byte(middle), 1)) .. good:sub(middle + 1)
    for _, bytes in ipairs { "", good:sub(1, -2), flipped } do
      write(path, bytes)
      is_refused(home, "is compiled again: " .. path)
      assert.is_true(support.read_file(path) ~= bytes)
    end
    assert.same({ "binary", "" }, { compute(home, 1) })
    write(path, good:sub(1, 100))
    assert.same({ "source", "" }, { compute(home, 1, "") }) -- who has not asked is told nothing
  end)

  on_pocl("is not taken under another's name, nor from another's cache", function()
    local home, path = new_kept()
    compute(home, 2)
    local other = kept_in(home)[1] == path and kept_in(home)[2] or kept_in(home)[1]
    local planted = support.read_file(other)
    write(path, planted)
    is_refused(home, "is compiled again: " .. path)
    local stranger, same = new_kept()
    assert.equal(path:match "[^/]*$", same:match "[^/]*$")
    sh(("cp -a %s %s"):format(same, path))
    is_refused(home, path .. " was not written here with this user's key, or is damaged")
    sh(("cp -a %s %s"):format(same, path))
    sh(("rm %s && cp -a %s %s"):format(home.key, stranger.key, home.key)) -- with the key it is this user's
    assert.same({ "binary", "" }, { compute(home, 1) })
  end)

  on_pocl("is not taken through links, from FIFOs, folders and sockets, nor hangs on them", function()
    local home, path = new_kept()
    sh(("mv %s %s/moved && ln -s %s/moved %s"):format(path, home.dir, home.dir, path))
    is_refused(home, path .. " is a symbolic link")
    assert.equal("file", lfs.symlinkattributes(path, "mode")) -- what was made anew has taken the link's place
    os.remove(path)
    sh(("mkfifo -m 600 %s"):format(path))
    is_refused(home, path .. " is no regular file")
    assert.same({ "binary", "" }, { compute(home, 1) })
    os.remove(path)
    sh(("ln -s /dev/zero %s"):format(path))
    is_refused(home, path .. " is a symbolic link")
    os.remove(path)
    assert(lfs.mkdir(path))
    local how, said = compute(home, 1)
    assert.equal("source", how)
    contains(said, path .. " is no regular file", "compiled programs are not kept: cannot write in " .. home.cache)
    lfs.rmdir(path)
    sh(("mv %s %s/real && ln -s %s/real %s"):format(home.cache, home.dir, home.dir, home.cache))
    is_refused(home, "compiled programs are not kept: " .. home.cache .. " is a symbolic link")
    assert.same({ "source", "" }, { compute(home, 1, "") })
  end)

  on_pocl("is not taken from files and folders that others may write", function()
    local home, path = new_kept()
    for _, mode in ipairs { "0660", "0602", "0666" } do
      sh(("chmod %s %s"):format(mode, path))
      is_refused(home, ("%s may be written by others (its mode is %s)"):format(path, mode:sub(2)))
      assert.same({ "binary", "" }, { compute(home, 1) })
    end
    for _, mode in ipairs { "0777", "1777", "0720" } do
      sh(("chmod %s %s"):format(mode, home.cache))
      is_refused(home, ("compiled programs are not kept: %s may be written by others"):format(home.cache))
    end
    sh(("chmod 0755 %s"):format(home.cache))
    assert.same({ "binary", "" }, { compute(home, 1) })
  end)

  on_pocl("needs a key that nobody else can read", function()
    local home = new_kept()
    sh(("chmod 0640 %s"):format(home.key))
    is_refused(home, ("compiled programs are not kept: %s may be read by others (its mode is 640)"):format(home.key))
    sh(("chmod 0600 %s"):format(home.key))
    assert.same({ "binary", "" }, { compute(home, 1) })
    write(home.key, "short")
    is_refused(home, home.key .. " is no key (remove it, and a new one is made)")
    sh(("rm %s && ln -s /dev/zero %s"):format(home.key, home.key))
    is_refused(home, home.key .. " is a symbolic link")
    sh(("rm %s && mkfifo -m 600 %s"):format(home.key, home.key))
    is_refused(home, home.key .. " is no regular file")
    os.remove(home.key)
    assert.equal("source", (compute(home, 1))) -- under a new one the old programs are strangers'
    assert.same({ "binary", "" }, { compute(home, 1) })
  end)

  as_root("is not taken from another user", function()
    local home, path = new_kept()
    sh(("chown 65534 %s"):format(path))
    is_refused(home, path .. " belongs to user 65534, not to 0 who runs this")
    assert.same({ "binary", "" }, { compute(home, 1) })
    sh(("chown 65534 %s"):format(home.cache))
    is_refused(home, home.cache .. " belongs to user 65534, not to 0 who runs this")
    sh(("chown 0 %s && chown 65534 %s"):format(home.cache, home.key))
    is_refused(home, home.key .. " belongs to user 65534, not to 0 who runs this")
    sh(("chown 0 %s && cd %s && chmod 755 . cache cache/tidepool state state/tidepool && chmod 644 %s"):format(home.key, home.dir, path))
    -- What root has kept is nothing to a user who can read it.
    local dir = support.temp_dir()
    sh(("chmod 777 %s"):format(dir))
    write(dir .. "/job.lua", (JOB:gsub("BY", "1")))
    local binary = dir .. "/tidepool"
    sh(("cp $TIDEPOOL %s && chmod 755 %s %s/job.lua"):format(binary, binary, dir))
    local done = run(("cd %s; POCL_CACHE_DIR=%s/pocl XDG_CACHE_HOME=%s/cache XDG_STATE_HOME=%s/state HOME=%s " ..
      "setpriv --reuid=65534 --regid=65534 --clear-groups %s --verbose job.lua"):format(dir, dir, home.dir, home.dir, dir, binary))
    assert.equal("3.5\n", done.stdout)
    assert.equal(("tidepool: compiled programs are not kept: %s belongs to user 0, not to 65534 who runs this\n"):format(home.cache), done.stderr)
  end)

  on_pocl("is what was used last, when there is no room for all", function()
    local home, path = new_kept()
    local size = lfs.attributes(path, "size")
    local limit = ("TIDEPOOL_CACHE_SIZE=%dK"):format(math.floor(size * 3.5 / 1024))
    local now = os.time()
    lfs.touch(path, now - 100)
    for by = 2, 3 do
      compute(home, by, nil, limit)
      for _, each in ipairs(kept_in(home)) do
        if lfs.attributes(each, "modification") >= now - 10 then lfs.touch(each, now - 100 + by) end
      end
    end
    assert.equal(3, #kept_in(home))
    assert.equal("binary", (compute(home, 1, nil, limit))) -- used now
    compute(home, 4, nil, limit)
    assert.equal(3, #kept_in(home))
    assert.equal("binary", (compute(home, 1, nil, limit)))
    assert.equal("source", (compute(home, 2, nil, limit)))
    write(home.cache .. "/.new-0123456789abcdef01234567", "left by a process that was killed")
    lfs.touch(home.cache .. "/.new-0123456789abcdef01234567", now - 1000)
    compute(home, 5, nil, "TIDEPOOL_CACHE_SIZE=1K")
    assert.same({}, kept_in(home))
    assert.is_nil(lfs.attributes(home.cache .. "/.new-0123456789abcdef01234567"))
    compute(home, 6, nil, "TIDEPOOL_CACHE_SIZE=0")
    assert.same({}, kept_in(home))
  end)

  it("has a size limit that is checked", function()
    for _, text in ipairs { "many", "-1", "1T", "12MB", "99999999999999999999G" } do
      local complaint = ("tidepool: TIDEPOOL_CACHE_SIZE is a size as 64M or 1G, or 0 for no cache, not %s\n"):format(text)
      shell.check({ code = 2, stdout = "", stderr = complaint },
        ("TIDEPOOL_CACHE_SIZE=%s $T -e 'print(1)'"):format(quote(text)))
    end
    shell.check({ stdout = "1\n", stderr = "" }, "TIDEPOOL_CACHE_SIZE=64M $T -e 'print(1)'")
  end)

  on_pocl("may be written by two processes at once, from the key on", function()
    for _ = 1, 2 do
      local home = new_home()
      local done = run(([[
        export POCL_CACHE_DIR=%s XDG_CACHE_HOME=%s/cache XDG_STATE_HOME=%s/state
        $T --verbose job.lua >1 & $T --verbose job.lua >2 & $T --verbose job.lua >3; wait; cat 1 2 3
      ]]):format(pocl_cache, home.dir, home.dir), { ["job.lua"] = JOB:gsub("BY", "1") })
      assert.same({ "3.5\n3.5\n3.5\n", "" }, { done.stdout, done.stderr })
      assert.equal(1, #kept_in(home))
      assert.same({ "binary", "" }, { compute(home, 1) })
    end
  end)

  on_pocl("is not missed where no folder can be made", function()
    local home = new_home()
    write(home.dir .. "/cache", "")
    local how, said = compute(home, 1)
    assert.equal("source", how)
    assert.equal(("tidepool: compiled programs are not kept: cannot open %s: Not a directory\n"):format(home.cache), said)
    os.remove(home.dir .. "/cache")
    write(home.dir .. "/state", "")
    how, said = compute(home, 1)
    assert.equal("source", how)
    contains(said, ("tidepool: compiled programs are not kept: cannot make %s/state/tidepool: Not a directory\n"):format(home.dir))
  end)
end)
