-- program.lua: a program and its instances: what they capture, how they fail, and the rounds until
-- their types settle.

local abi = require "tidepool.base.abi"
local arrays = require "tidepool.translate.infer.arrays"
local flows = require "tidepool.translate.infer.flow"
local functions = require "tidepool.translate.infer.functions"
local references = require "tidepool.translate.infer.references"
local walk = require "tidepool.translate.infer.walk"
local recursion = require "tidepool.translate.recursion"
local wide_rules = require "tidepool.translate.infer.wide"
local wide = require "tidepool.translate.wide"

local refuse = functions.refuse
local declare = flows.declare
local block = walk.block

local INSTANCES_MAX, FAILURES_MAX = 500, abi.KERNEL_FAILURES_MAX

---@class tidepool.gpu.Program one translation
local Program = {}
Program.__index = Program

---@class tidepool.gpu.Instance one function for one kind of arguments
local Instance = {}
Instance.__index = Instance

-- Notes that the instance reads a captured number or array.
function Instance:capture(kind, static)
    local key = kind .. static.key
    if self.captured[key] then return end
    local program = self.program
    local entry = program.captured[key]
    if not entry then
        local ctype = kind == "number" and wide.kind_of(static.value) or kind == "array" and arrays.array_type(static.value) or nil
        entry = { kind = kind, static = static, key = key, ctype = ctype, is_list = kind == "array" and not ctype }
        if entry.is_list then entry.ctype = select(2, arrays.is_list(static.value)) or program.real end
        program.captured[key] = entry
        program.captures[#program.captures + 1] = entry
    end
    self.captured[key] = entry
    self.captures[#self.captures + 1] = entry
end

-- The number of a failure; the same text gets the same number.
function Instance:failure(kind, node, text, array)
    local program = self.program
    local key = kind .. node.line .. text
    local code = program.failure_codes[key]
    if not code then
        code = #program.failures + 1
        if code > FAILURES_MAX then
            refuse(self, node, "more than %d different ways to fail; give several of them one message, with a number in it", FAILURES_MAX)
        end
        program.failures[code] = { kind = kind, line = node.line, message = text, file = (node.source or self.fn.source).file, array = array }
        program.failure_codes[key] = code
    end
    return code
end

-- Where a local of a text is declared. Texts are read anew for each analysis.
local function place_of(file, var) return ("%s:%d: %s"):format(file, var.line, var.name) end

---Is it a local that may be read before it has a value, as an earlier analysis has found?
---@param file string where its text is
---@param var table of the text
function Program:is_unset(file, var) return self.unset[place_of(file, var)] ~= nil end

-- A local may be read before it has a value: what reads it has to check that. So the program is
-- analysed again, and lower.lua gives it a flag. Nothing happens where that has been done.
function Instance:learn_unset(node, var)
    local place = place_of(var.file or (node.source or self.fn.source).file, var.of or var)
    if self.program.unset[place] then return end
    self.program.unset[place] = true
    error({ again = true }, 0)
end

function Instance:settle()
    local def = self.def
    local rounds = 0
    repeat
        rounds = rounds + 1
        if rounds > 60 then refuse(self, def, "its types do not settle; give the variables simpler roles") end
        self.changed, self.constants, self.starts = false, {}, {}
        local flow = { assigned = {}, level = 0 }
        for _, input in ipairs(self.inputs) do
            local known = declare(self, flow, input.var)
            known.kind, known.varies, known.static = known.kind or input.kind, known.varies or input.varies, input.static
            flow.assigned[input.var] = input.constant or true
            if input.ref then
                known.room, known.is_ref, self.has_refs = input.room, true, true
                flow.assigned[input.var] = input.state
            end
        end
        self.outs = nil
        for _, param in ipairs(def.params) do
            declare(self, flow, param)
            self.is_parameter[param] = true
            if not flow.assigned[param] then flow.assigned[param] = "nil" end
        end
        for _, var in ipairs(self.without or {}) do
            declare(self, flow, var)
            flow.assigned[var] = "nil"
        end
        self.falls = block(self, def.body, flow)
        if self.falls then references.leave(self, flow) end
    until not self.changed
    wide_rules.check_starts(self)
    self.is_settled = true
    self.never_returns = not self.falls and not self.returns
    self.results = self.results or {}
    if self.falls then
        for _, result in ipairs(self.results) do
            result.line = result.line or self.results.line
            result.missing = ("a path through the function ends without a return; line %d returns %d value%s"):format(result.line,
                #self.results, #self.results == 1 and "" or "s")
            result.line = def.last_line
        end
    end
    for var, known in pairs(self.vars) do
        if var.is_guarded and not known.kind then known.kind = "num" end -- what it would be given is never reached
    end
    for _, result in ipairs(self.results) do
        if result.kind == "k" or result.kind == nil then result.kind = "num" end
    end
end

-- The instance for these arguments; a new one is made and analysed.
function Program:instance(caller, at, wanted)
    local inst = self.by_key[wanted.key]
    recursion.check(self, caller, at, wanted)
    if inst then return inst end
    if #self.instances >= INSTANCES_MAX then
        refuse(caller, at, "more than %d helper functions (by kinds of arguments)", INSTANCES_MAX)
    end
    inst = setmetatable({
        program = self, fn = wanted.fn, def = wanted.def, name = wanted.name, inputs = wanted.inputs, outer = wanted.outer,
        simd = wanted.simd, without = wanted.without, states = {}, labels = {},
        vars = {}, starts = {}, types = {}, varies = {}, statics = {}, loops = {}, places = {}, loop_varies = {}, fornum = {}, has_loops = false,
        calls = {}, codes = {}, stores = {}, columns = {}, lengths = {}, ends = {}, updates = {}, assigns = {}, is_parameter = {},
        called_at = caller.def and at.line, caller_place = wanted.caller_place, lists = {}, captures = {}, captured = {}, can_fail = false,
        draws = false, text = wanted.text, key = wanted.key, recursion_level = wanted.recursion_level or 0,
    }, Instance)
    self.by_key[wanted.key] = inst
    self.stack[#self.stack + 1] = inst
    inst:settle()
    self.stack[#self.stack] = nil
    self.instances[#self.instances + 1] = inst   -- callees come before their callers
    return inst
end

return Program
