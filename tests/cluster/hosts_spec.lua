--- Clusters of several hosts (not stock: workers and scripts are the program): workers that ssh
-- starts, hosts in network namespaces that are cut off, what is said where a package is missing.

local support = require "tests.support"
local cluster = require "tests.support_cluster"

local capture, contains = cluster.capture, support.contains
local once = [[print(require "tidepool".App("job"):func(function(x) return x end):remote(4))]]

local function works(command)
  return select(2, capture(command .. " >/dev/null")) == 0
end

describe("tidepool worker --hosts", function()
  if not cluster.is_possible() then
    pending "nats-server is not installed"
    return
  end
  local own, bin
  before_each(function()
    own = cluster.up()
    bin = support.temp_dir()
    -- "ssh": a shell in the place of another machine, with a PATH and an environment of its own
    support.write_file(bin .. "/ssh", ([[#!/bin/sh
      echo "$*" >>%s/asked
      while [ $# -gt 2 ]; do shift; done
      case $1 in
      empty) exec env -i PATH=%s/nothing:/bin:/usr/bin sh -c "$2" ;;
      down) echo "ssh: connect to host down port 22: No route to host" >&2; exit 255 ;;
      *) exec env -i HOME=/nowhere PATH=%s/there:/bin:/usr/bin sh -c "$2" ;;
      esac
    ]]):format(bin, bin, bin))
    os.execute(("chmod +x %s/ssh; mkdir %s/there; ln -s $(readlink -f %s) %s/there/tidepool"):format(bin, bin, support.binary, bin))
  end)
  after_each(function() own:down() end)

  --- Starts it -> its process, and what it says so far.
  local function start(hosts, words)
    local log = support.temp_path()
    local pid = capture(("env PATH=%s:$PATH %s %s worker --hosts %s %s </dev/null >%s 2>&1 & echo $!"):format(bin, own:environment(),
      support.binary, hosts, words or "", log)):match "%d+"
    return { pid = pid, log = log }, function() return support.read_file(log) or "" end
  end

  it("starts workers there, with the token out of sight, and has them leave with itself", function()
    local process, said = start("one,two", "-w 3 --grace 20")
    support.eventually("both are ready", function() return select(2, said():gsub("ready for work", "")) == 2 end)
    contains(said(), "one: tidepool worker: ready for work of " .. own.url .. " (3 at once)", "two: tidepool worker: ready")
    assert.equal("4\n", own:run(once).stdout)
    contains(own:engine "status", "2 workers, 6 at once")
    -- an engine on the loopback address is reached through the connection
    contains(support.read_file(bin .. "/asked"), ("-R %d:127.0.0.1:%d one "):format(own.port, own.port), "BatchMode=yes")
    local token = own:engine "token"
    for part in token:gmatch "%x%x%x%x+" do
      assert.is_nil(support.read_file(bin .. "/asked"):find(part, 1, true))
      assert.is_nil(support.read_file(("/proc/%s/cmdline"):format(process.pid)):find(part, 1, true))
    end
    own:kill(process, "TERM")
    support.eventually("it has ended", function() return not own:is_alive(process) end)
    contains(said(), "the workers leave when", "one: tidepool worker: leaves when what runs is over (at most 20 s)")
    support.eventually("no worker is there", function() return own:engine "status":find("0 workers", 1, true) end)
  end)

  it("ends them when it is killed itself", function()
    local process, said = start "one"
    support.eventually("it is ready", function() return said():find("ready", 1, true) end)
    own:kill(process, "KILL")
    support.eventually("no worker is there", function() return own:engine "status":find("0 workers", 1, true) end)
  end)

  it("says what is missing, where, and goes on with the others", function()
    local process, said = start "empty,one,down"
    support.eventually("one is ready", function() return said():find("one: tidepool worker: ready", 1, true) end)
    for _, text in ipairs { "empty: tidepool is not installed there", "down: ssh: connect to host down port 22: No route to host",
      "down: ssh has failed: `ssh down true` is to work" } do
      support.eventually(text, function() return said():find(text, 1, true) end)
    end
    assert.equal("4\n", own:run(once).stdout)
    own:kill(process, "TERM")
    support.eventually("it has ended", function() return not own:is_alive(process) end)
  end)

  it("refuses names that ssh could take for something else", function()
    local function says(hosts)
      return (capture(("env %s timeout 20 %s worker --hosts %s"):format(own:environment(), support.binary, hosts)))
    end
    contains(says "-oProxyCommand=x", "not -oProxyCommand=x")
    contains(says "a,,b", "not nothing")
    contains(says "'a b'", "not a b")
    contains(says "a --idle-exit x", "--idle-exit is a number of seconds, not x")
    contains((capture(("env %s PATH=/nowhere %s worker --hosts a"):format(own:environment(), support.binary))), "apt install openssh-client")
  end)

  it("lets workers end when they have had nothing to do for some time", function()
    local worker = own:worker(1, nil, nil, "--idle-exit 1")
    support.eventually("it has left", function() return not own:is_alive(worker) end)
    contains(own:said(worker), "had nothing to do for 1 s")
  end)
end)

describe("without one of its packages", function()
  local isolated = "unshare -rm"
  if not works(isolated .. " mount --bind /dev/null /dev/zero") then
    pending "no mount namespaces here"
    return
  end

  --- Runs a command where none of the files is there.
  local function without(files, command)
    return (capture(("%s sh -c 'for f in %s; do for g in $(ls $f 2>/dev/null); do mount --bind /dev/null $(readlink -f $g); done; done; %s'"):format(
      isolated, files, command)))
  end
  local libraries = "/usr/lib/*/"
  local token = (".%s.%s"):format(("0"):rep(64), ("1"):rep(64))

  it("a cluster says what to install, and everything else works", function()
    local dir = support.temp_dir()
    local path = support.temp_path()
    support.write_file(path, once)
    contains(without("/usr/sbin/nats-server /usr/bin/nats-server /usr/local/bin/nats-server",
      ("%s engine up --dir %s --listen 127.0.0.1:9"):format(support.binary, dir)), "nats-server is not installed: on Debian, apt install nats-server")
    local script = ("TIDEPOOL_TOKEN=tpc1%s %s --engine nats://127.0.0.1:9 %s; %s -w 1 %s"):format(token, support.binary, path, support.binary, path)
    contains(without(libraries .. "libnats.so.*", script), "apt install libnats3.4", "\n4\n")
    contains(without(libraries .. "libsodium.so.*", script), "apt install libsodium23", "\n4\n")
    contains(without(libraries .. "libsodium.so.*", ("%s engine up --dir %s"):format(support.binary, dir)), "apt install libsodium23")
    contains(without(libraries .. "libnats.so.*", ("TIDEPOOL_TOKEN=tpw1%s %s worker --engine nats://127.0.0.1:9"):format(token, support.binary)),
      "apt install libnats3.4")
  end)
end)

describe("hosts in network namespaces", function()
  if not cluster.is_possible() then return end
  local net, own = "tp" .. support.read_file "/proc/self/stat":match "^%d+", nil
  local try = "ip netns add NET && ip -n NET link add try0 type bridge && ip -n NET link add try1 type veth peer name try2"
  local is_possible = works(("(%s)"):format(try:gsub("NET", net)))
  capture("ip netns del " .. net)
  if not is_possible then
    pending "no network namespaces here"
    return
  end

  local function ip(words)
    local said, status = capture("ip " .. words)
    assert(status == 0, said)
  end

  before_each(function()
    -- the engine and the script are on one host, at 10.78.0.1, and workers on two others
    ip(("netns add %s-hub"):format(net))
    for _, words in ipairs { "link set lo up", "link add br0 address 02:00:00:4e:00:01 type bridge", "addr add 10.78.0.1/24 dev br0",
      "link set br0 up" } do
      ip(("-n %s-hub %s"):format(net, words))
    end
    for i = 1, 2 do
      ip(("netns add %s-%d"):format(net, i))
      ip(("-n %s-hub link add v%d type veth peer name eth0 netns %s-%d"):format(net, i, net, i))
      ip(("-n %s-hub link set v%d master br0 up"):format(net, i))
      for _, words in ipairs { "link set lo up", "addr add 10.78.0.1%d/24 dev eth0", "link set eth0 up" } do
        ip(("-n %s-%d %s"):format(net, i, words:format(i)))
      end
    end
    own = cluster.up("10.78.0.1", ("ip netns exec %s-hub"):format(net))
    for i = 1, 2 do own:worker(1, nil, nil, nil, ("ip netns exec %s-%d"):format(net, i)) end
  end)
  after_each(function()
    own:down()
    for _, host in ipairs { "hub", 1, 2 } do capture(("ip netns del %s-%s"):format(net, host)) end
  end)

  --- A map goes on while a host's packets vanish for so long, and after that.
  local function cut_off(seconds)
    local path = support.temp_path()
    local script = own:start(([[
      local app = require "tidepool".App "job"
      local f = app:func { name = "f" } (function(x) require "tests.support".sleep(0.02) return 2 * x end)
      local inputs = {}
      for i = 1, %d do inputs[i] = i end
      local n = 0
      for i, value in f:map(inputs) do
        n = n + 1
        assert(i == n and value == 2 * i)
        if n == 20 then require "tests.support".note(%q, "begun") end
      end
      print(n)]]):format(300 + 50 * seconds, path))
    support.eventually("it has begun", function() return support.read_file(path) end)
    ip(("-n %s-hub link set v1 nomaster"):format(net))
    support.sleep(seconds)
    ip(("-n %s-hub link set v1 master br0"):format(net))
    local said, status, errors = script.done()
    assert.same({ 300 + 50 * seconds .. "\n", 0 }, { said, status }, errors)
    -- and is one again
    support.eventually("both workers are there", function() return own:engine "status":find("2 workers", 1, true) end)
  end

  it("that are cut off for 3 s lose nothing, and are used again", function() cut_off(3) end)
  it("that are cut off for 12 s lose nothing, and are used again", function() cut_off(12) end)
end)

describe("scripts/demo-cluster", function()
  if not cluster.is_possible() then return end

  it("starts an engine and two workers, runs a script on them, and leaves nothing behind", function()
    local path = support.temp_dir() .. "/once.lua"
    support.write_file(path, [[
      local app = require "tidepool".App "job"
      local f = app:func(function(x) return x end)
      app:main(function() print(f:remote(4)) end)]])
    -- without namespaces, as where they are not allowed
    local bin = support.temp_dir()
    support.write_file(bin .. "/ip", "#!/bin/sh\necho no such thing >&2\nexit 1\n")
    os.execute(("chmod +x %s/ip"):format(bin))
    for _, setting in ipairs { "", ("PATH=%s:$PATH"):format(bin) } do
      local temp = support.temp_dir()
      local said, status = capture(("env TIDEPOOL=$(readlink -f %s) TMPDIR=%s %s timeout 120 scripts/demo-cluster %s"):format(
        support.binary, temp, setting, path))
      assert.equal(0, status, said)
      contains(said, "The engine runs at", "2 workers, 2 at once", "\n4\n", "engine down")
      if setting ~= "" then contains(said, "the hosts are processes. no such thing", "nats://127.0.0.1:") end
      assert.equal("", (capture("ls " .. temp)))
    end
  end)
end)

describe("deploy/", function()
  it("has a unit for systemd that it understands", function()
    if not works "command -v systemd-analyze" then return pending "no systemd here" end
    local dir = support.temp_dir()
    local unit = support.read_file "deploy/tidepool-worker@.service"
    unit = unit:gsub("ExecStart=tidepool", "ExecStart=" .. io.popen("readlink -f " .. support.binary):read "*l"):gsub("Documentation=[^\n]*\n", "")
    support.write_file(dir .. "/tidepool-worker@x.service", unit)
    assert.equal("", (capture(("systemd-analyze verify %s/tidepool-worker@x.service"):format(dir))))
  end)

  it("names options that a worker has, and a manifest that can be read", function()
    local known = (capture(support.binary .. " help worker")) .. (capture(support.binary .. " help engine"))
    for _, name in ipairs { "tidepool-worker@.service", "slurm.sh", "kubernetes.yaml" } do
      for option in support.read_file("deploy/" .. name):gmatch "(%-%-%l[%l-]*)" do
        if not known:find(option, 1, true) then
          local others = "--now --nodes --time --kill-on-bad-exit --build-arg --from-file --job-name --ntasks-per-node --exclusive --signal --requeue"
          assert.is_truthy(others:find(option, 1, true), name .. " " .. option)
        end
      end
    end
    assert.equal(0, select(2, capture "sh -n deploy/slurm.sh"))
    if works "python3 -c 'import yaml'" then
      assert.equal("6\n", (capture [[python3 -c 'import yaml; print(len(list(yaml.safe_load_all(open("deploy/kubernetes.yaml")))))']]))
    end
  end)
end)
