--- In nginx (lua-nginx-module, OpenResty): what waits in a request lets other requests go on.
-- host/program/module.c loads this.
--
-- A request's Lua code runs in a coroutine of nginx's. Where that may sleep, a wait sleeps in short
-- steps and looks each time; elsewhere (init_worker, log, header filters) it blocks the process.

local loop = require "tidepool.engine.loop"

local ngx = ngx -- luacheck: globals ngx

-- phases in which ngx.sleep may be called
local SLEEPS = { rewrite = true, server_rewrite = true, access = true, content = true, timer = true, ssl_cert = true, ssl_session_fetch = true,
  ssl_client_hello = true }

loop.set_pause(function() return SLEEPS[ngx.get_phase()] or false end, ngx.sleep)

return true
