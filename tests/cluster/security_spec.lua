--- Who may do what in a cluster (not stock: workers and scripts are the program): what each role is
-- refused by a real server, TLS, tokens, and work that its coordinator has not sent like that.

local support = require "tests.support"
local cluster = require "tests.support_cluster"

local capture, contains = cluster.capture, support.contains
local once = [[print(require "tidepool".App("job"):func(function(x) return x end):remote(4))]]

local function has(command)
  return select(2, capture("command -v " .. command)) == 0
end

describe("an engine", function()
  if not cluster.is_possible() then
    pending "nats-server is not installed"
    return
  end
  local own

  --- Is all of that refused to the user of that role?
  local function refuses(role, publish, subscribe)
    local lines = {}
    for _, subject in ipairs(publish) do lines[#lines + 1] = cluster.publish(subject, "") end
    for i, subject in ipairs(subscribe) do lines[#lines + 1] = ("SUB %s %d\r\n"):format(subject, i) end
    local said = own:speak(role, table.concat(lines))
    for _, kind in ipairs { { "Publish", publish }, { "Subscription", subscribe } } do
      for _, subject in ipairs(kind[2]) do
        contains(said, ('Permissions Violation for %s to "%s"'):format(kind[1], subject))
      end
    end
  end

  setup(function()
    own = cluster.up()
    own:worker(1)
    own:run(once) -- makes the streams
    own:engine "token --for other"
  end)
  teardown(function() own:down() end)

  local api = { "INFO", "STREAM.NAMES", "STREAM.LIST", "CONSUMER.NAMES.TP1_d_W", "CONSUMER.LIST.TP1_d_W" }
  for _, stream in ipairs { "TP1_d_W", "TP1_d_R", "TP1_d_B", "other" } do
    for _, what in ipairs { "UPDATE", "DELETE", "INFO", "MSG.GET", "MSG.DELETE", "SNAPSHOT", "RESTORE" } do
      api[#api + 1] = ("STREAM.%s.%s"):format(what, stream)
    end
    api[#api + 1] = ("CONSUMER.CREATE.%s"):format(stream)
    api[#api + 1] = ("CONSUMER.CREATE.%s.x.tp1.d.>"):format(stream)
    api[#api + 1] = ("CONSUMER.DELETE.%s.x"):format(stream)
  end

  --- Subjects of the API of streams that nobody may use, but for those in `allowed`, and `more`.
  local function with(more, allowed)
    local subjects = {}
    for _, name in ipairs(api) do
      if not (allowed and allowed[name]) then subjects[#subjects + 1] = "$JS.API." .. name end
    end
    for _, name in ipairs(more) do subjects[#subjects + 1] = name end
    return subjects
  end

  it("lets a worker neither send work, nor speak for others, nor touch streams, nor listen to others", function()
    refuses("worker", with {
      "tp1.d.w.x.y.1.1", "tp1.d.ctl.all", "tp1.d.ctl.x", "tp1.d", own:inbox "worker" .. ".x", own:inbox "worker-other" .. ".x", "_TPC.x",
      "_INBOX.x", "$SYS.REQ.SERVER.PING", "$JS.API.STREAM.CREATE.TP1_d_W", "$JS.API.STREAM.PURGE.TP1_d_W", "$JS.API.STREAM.PURGE.TP1_d_R",
      "$JS.API.CONSUMER.DURABLE.CREATE.TP1_d_W.P_x", "$JS.API.CONSUMER.MSG.NEXT.TP1_d_R.x", "$JS.API.DIRECT.GET.TP1_d_W",
      "$JS.API.DIRECT.GET.TP1_d_R.tp1.d.r.x", "$JS.ACK.TP1_d_R.x.1.1.1.1.0" },
      { ">", "_TPW.>", "_TPW.*.x.>", own:inbox "worker-other" .. ".>", "_TPC.>", "_INBOX.>", "tp1.>", "tp1.d.w.>", "tp1.d.r.>", "tp1.d.b.>",
        "tp1.d.q.*", "tp1.d.hb.*", "$JS.>", "$JS.API.>", "$JS.ACK.>", "$JS.EVENT.>", "$SYS.>" })
  end)

  it("lets a script neither use other streams, nor speak for workers, nor listen to them", function()
    -- `tidepool engine gc`, which is a script too, removes what dead scripts have left
    local allowed = { ["CONSUMER.NAMES.TP1_d_W"] = true, ["CONSUMER.DELETE.TP1_d_W.x"] = true, ["STREAM.INFO.TP1_d_W"] = true,
      ["STREAM.INFO.TP1_d_R"] = true, ["STREAM.INFO.TP1_d_B"] = true,
      ["STREAM.MSG.DELETE.TP1_d_B"] = true }
    refuses("coordinator", with({
      "tp1.d.r.x.1.1.1", "tp1.d.hb.x", "_INBOX.x", "$SYS.REQ.SERVER.PING", "$JS.API.STREAM.CREATE.other",
      "$JS.API.STREAM.PURGE.other", "$JS.API.CONSUMER.DURABLE.CREATE.other.x", "$JS.API.CONSUMER.DURABLE.CREATE.TP1_d_R.x",
      "$JS.API.CONSUMER.MSG.NEXT.TP1_d_W.x", "$JS.API.DIRECT.GET.TP1_d_W" }, allowed),
      { ">", "_TPW.>", "_INBOX.>", "tp1.>", "tp1.d.w.>", "tp1.d.b.>", "tp1.d.ctl.*", "$JS.>", "$JS.API.>", "$JS.ACK.>", "$SYS.>" })
  end)

  it("lets in nobody without a password, or with another", function()
    local name = own:user "worker"
    for _, words in ipairs { "", ('"user":"%s"'):format(name), ('"user":"%s","pass":""'):format(name),
      ('"user":"%s","pass":"%s"'):format(name, ("0"):rep(64)), '"user":"coordinator","pass":"coordinator"', '"user":"","pass":""' } do
      local said = own:say(("CONNECT {%s}\r\nPING\r\n"):format(words))
      contains(said, "Authorization Violation")
      assert.is_nil(said:find("PONG", 1, true))
    end
  end)

  it("gives machines tokens of their own, and takes them back", function()
    local function worker(token)
      return own:worker(1, nil, ("TIDEPOOL_ENGINE_DIR=/nowhere TIDEPOOL_TOKEN=%s"):format(token:gsub("%s", "")))
    end
    local token, status = own:engine "token --for box-1"
    assert.equal(0, status)
    assert.equal(token, (own:engine "token --for box-1"))
    assert.is_not.equal(token, (own:engine "token"))
    local box = worker(token)
    assert.is_nil(support.read_file(("/proc/%d/environ"):format(box.pid)):find(token:match "%x+%.(%x+)", 1, true))
    assert.equal("nil\n", own:run([[
      local f = require "tidepool".App("job"):func(function(x) return os.getenv "TIDEPOOL_TOKEN" end)
      print((f:remote(4)))]]).stdout)
    contains(own:engine "token --revoke box-1", "worth nothing")
    support.eventually("the worker has ended", function() return not own:is_alive(box) end)
    contains(own:said(box), "does not let this worker in any more")
    assert.equal("4\n", own:run(once).stdout) -- the other worker is still there
    local said
    said, status = capture(("%s TIDEPOOL_TOKEN=%s timeout 20 %s worker --engine %s"):format("env", token:gsub("%s", ""), support.binary, own.url))
    assert.equal(2, status)
    contains(said, "refuses the token")
    for part in token:gmatch "%x%x%x%x+" do assert.is_nil(said:find(part, 1, true)) end
    contains(own:engine "token --revoke box-1", "no token for box-1")
    contains(own:engine "token --for ../x", "letters, digits", "not as ../x")
  end)
end)

describe("an engine for other machines", function()
  if not cluster.is_possible() then return end

  it("speaks TLS only, and is trusted by whoever has its token, and nobody else is", function()
    local own, other = cluster.up "0.0.0.0", cluster.up "0.0.0.0"
    finally(function() own:down() other:down() end)
    local said = own:engine "up"
    contains(said, "runs already at " .. own.url, "on other machines", "tidepool worker --engine tls://")
    local version = own:engine "status":match "nats%-server ([%d.]+)"
    if version:find "^2%.9%." or version:find "^2%.10%." then contains(said, "known holes") end -- Debian 12's and 13's
    contains(own:speak("worker", ""), '"tls_required":true')
    assert.is_nil(own:speak("worker", ""):find("PONG", 1, true))
    own:worker(2)
    assert.equal("4\n", own:run(once).stdout)
    own:kill_server()
    own:up_again() -- with another certificate
    assert.equal("4\n", own:run(once).stdout)
    -- somebody in the middle
    own.url, other.url = other.url, own.url
    contains(own:run(once).stderr, own.url .. " is not that of the token")
    own.url = other.url:gsub("tls", "nats")
    contains(own:run(once).stderr, own.url .. " wants TLS: try " .. other.url)
    own.url = other.url
    if has "openssl" then
      contains(capture(("openssl x509 -in %s/server.pem -noout -text"):format(own.dir)), "ED25519", "DNS:engine.tidepool")
    end
  end)

  it("does not give up TLS when the server has none", function()
    local own = cluster.up()
    finally(function() own:down() end)
    local url = own.url
    own.url = url:gsub("nats", "tls")
    contains(own:run(once).stderr, own.url .. " has no TLS: try " .. url)
    own.url = url
    assert.is_nil(own:engine "up":find("known holes", 1, true)) -- nobody else reaches it
  end)
end)

describe("a cluster's worker", function()
  if not cluster.is_possible() then return end
  local own, worker
  before_each(function() own = cluster.up() end)
  after_each(function() own:down() end)

  --- Takes the first work of a script, as a worker would -> its subject, its bytes, the script, the
  -- file that the script waits for, the file that it writes when it is run.
  local function steal(from)
    local build = from:speak("coordinator", "SUB tp1.d.hb.* 1\r\n", " Tidepool"):match "tp1%.d%.hb%.%x+ 1 %d+\r?\n(%x+) "
    from:kill(from.workers[1], "KILL")
    local path, ran, pid = support.temp_path(), support.temp_path(), support.temp_path()
    local script = from:start(([[
      local ffi = require "ffi"
      ffi.cdef "int getpid(void);"
      require "tests.support".note(%q, ffi.C.getpid())
      io.stdout:setvbuf "no"
      local f = require "tidepool".App("job"):func(function(x) require "tests.support".note(%q, "ran") return x end)
      print(f:remote(4))
      require "tests.support".wait_for(%q)]]):format(pid, ran, path))
    function script.kill() os.execute("kill -KILL " .. support.read_file(pid)) end
    local inbox, subject, bytes = from:inbox "worker"
    support.eventually("the work is there", function()
      local said = from:speak("worker", ("SUB %s.spec.> 1\r\nPUB $JS.API.CONSUMER.MSG.NEXT.TP1_d_W.P_%s %s.spec.p 11\r\n{\"batch\":1}\r\n")
        :format(inbox, build, inbox), false)
      local name, len, at = said:match "MSG (tp1%.d%.w%.%S+) 1 %S+ (%d+)\r\n()"
      if name then subject, bytes = name, said:sub(at, at + len - 1) end
      return name
    end)
    return subject, bytes, script, path, ran
  end

  --- How many messages the worker has dropped.
  local function dropped()
    local n = 0
    for count in own:said(worker):gmatch "%((%d+) so far%)" do n = tonumber(count) end
    return n
  end

  it("counts and drops work that is cut off, changed or signed by others, and does what is right", function()
    own:worker(1)
    local subject, bytes, script, path = steal(own)
    finally(script.kill)
    worker = own:worker(2)
    local begin, sent = subject:match "^(.*%.)%d+%.1$", 0
    local function send(text)
      sent = sent + 1
      return cluster.publish(("%s%d.1"):format(begin, 1000 + sent), text)
    end
    local lines, head = {}, 64 + 8 + 32 + 16 + 16 + 8 + 4 + 4 + 8 + 32
    for i = 1, head do -- a bit of each byte of the signature and the head
      lines[#lines + 1] = send(bytes:sub(1, i - 1) .. string.char(bit.bxor(bytes:byte(i), 2 ^ (i % 8))) .. bytes:sub(i + 1))
    end
    for len = 0, #bytes - 1, 9 do lines[#lines + 1] = send(bytes:sub(1, len)) end
    lines[#lines + 1] = send(bytes .. "x")
    lines[#lines + 1] = send(bytes) -- not where it was sent to
    own:speak("coordinator", table.concat(lines))
    support.eventually("all were dropped", function() return dropped() == sent end, 60)
    support.eventually("it was done", function() return (support.read_file(script.dir .. "/out") or ""):find "4" end, 60)
    for _, text in ipairs { bytes:sub(1, head) .. string.char(bit.bxor(bytes:byte(head + 1), 1)) .. bytes:sub(head + 2), bytes:sub(1, -2) } do
      local before = dropped()
      support.eventually("it was dropped", function()
        own:speak("coordinator", cluster.publish(subject, text)) -- refused until the server knows that it was done
        return dropped() > before
      end, 60)
    end
    for _, why in ipairs { "its signature is wrong", "it is no work", "signed with another key", "it is too short", "it is not where it was sent to",
      "its payload is not what was signed", "it is longer or shorter than it says" } do
      contains(own:said(worker), why)
    end
    support.note(path, "go")
    assert.equal("4\n", (script.done()))
    assert.equal("4\n", own:run(once).stdout)
  end)

  it("drops what another cluster's coordinator has signed, and does not run what was recorded of a dead one", function()
    local other = cluster.up()
    finally(function() other:down() end)
    other:worker(1)
    local subject, bytes, script, _, ran = steal(other)
    script.kill()
    worker = own:worker(1)
    own:run(once)
    own:speak("coordinator", cluster.publish(subject, bytes))
    support.eventually("it was dropped", function() return dropped() == 1 end)
    contains(own:said(worker), "signed with another key")
    -- the server has it still, for the first worker that comes. That asks for its coordinator
    worker = other:worker(1)
    local reply
    support.eventually("it asks", function()
      local said = other:speak("coordinator", "SUB tp1.d.q.* 1\r\n", "^MSG tp1.d.q")
      reply = said:match("MSG tp1%.d%.q%." .. subject:match "%.(%x+)%.%d+%.1$" .. " 1 (%S+) ")
      return reply
    end, 60)
    other:speak("coordinator", cluster.publish(reply, ("x"):rep(64 + 8 + 3 * 16)))
    support.eventually("a wrong answer is dropped", function() return other:said(worker):find("no answer of that coordinator's", 1, true) end)
    assert.equal("4\n", other:run(once).stdout)
    other:kill(worker, "TERM")
    support.eventually("it has ended", function() return not other:is_alive(worker) end, 60)
    assert.is_nil(support.read_file(ran))
  end)
end)
