-- calls.lua: calls of builtins, of functions of the program, and calls that are statements of their
-- own (error, assert).

local emitter = require "tidepool.translate.emit.emitter"
local expressions = require "tidepool.translate.emit.expressions"

local wide = require "tidepool.translate.wide"

local WIDE = wide.KINDS
local Emitter, literal, number_text, bare = emitter.Emitter, emitter.literal, emitter.number_text, emitter.bare

local special = {}

-- The numbers that a failure's message has to include, as texts.
local function details_of(self, made)
    local details = {}
    for d, node in ipairs(made.numbers) do
        local value = self:expr(node)
        details[d] = self:hold({ c = self:as(value, "num", value.varies), kind = "num", varies = value.varies }).c
    end
    return details
end

function special.error(self, _, made)
    self:fail(("%d"):format(made.code), nil, details_of(self, made))
    return {}
end

function special.assert(self, node, made)
    local value, cond
    if node.wants_value then
        value = self:expr(node.args[1])
        cond = value.kind == "maybe" and value.cond or value.kind == "bool" and value or { c = "1", kind = "bool", varies = false }
        value = self:hold(value.value or value)
    else
        cond = self:condition(node.args[1])
    end
    if cond.c == "1" then return { value } end
    if made.numbers[1] then cond = self:hold(cond) end
    local details = details_of(self, made)
    if cond.varies then
        local bad = self:temp "m"
        self:line("%s %s = %s;", self.mask_type, bad, bare(self:masked("~" .. cond.c)))
        self:open("if (any(%s)) {", bad)
        self:fail(("%d"):format(made.code), bad, details)
        self:close()
    else
        self:open("if (!%s) {", cond.c)
        self:fail(("%d"):format(made.code), nil, details)
        self:close()
    end
    return { value }
end

function special.tonumber(self, node)
    local value = self:expr(node.args[1])
    if not WIDE[value.kind] then return { value } end
    return { { c = self:as(value, "num", value.varies), kind = "num", varies = value.varies } }
end

function special.wide(self, _, made)
    local value = made.value and self:expr(made.value) or literal(0)
    return { { c = self:as(value, made.kind, value.varies), kind = made.kind, varies = value.varies } }
end

function special.random(self, node)
    local given = self:values(node.args)
    local mask, x = "", self:temp "t"
    if self.inst.simd then
        mask = self:mask() or ("(%s)(-1)"):format(self.mask_type)
        mask = ", " .. self:mask_for("long", mask)
    end
    self:line("%s %s = %s(draws%s);", self:type("num", self.inst.simd), x, self:need("lua_draw", self.inst.simd), mask)
    if #given == 0 then return { { c = x, kind = "num", varies = self.inst.simd } } end
    local one, from = number_text(1, self.single), self:as(given[1], "num", self.inst.simd)
    local c
    if #given == 1 then
        c = ("(floor(%s * (%s)) + %s)"):format(x, from, one)
    else
        c = ("(floor(%s * ((%s) - (%s) + %s)) + (%s))"):format(x, self:as(given[2], "num", self.inst.simd), from, one, from)
    end
    return { { c = c, kind = "num", varies = self.inst.simd } }
end

local function call_builtin(self, node, made)
    local builtin, args, varies = made.builtin, {}, false
    local given = self:values(node.args)
    for _, value in ipairs(given) do varies = varies or value.varies end
    for i, value in ipairs(given) do
        local kind = made.wide and (i <= (builtin.wide.counts or i) and made.wide or "int") or builtin.arg
        args[i] = bare(self:as(value, kind, varies))
    end
    for i, c in ipairs(args) do
        if builtin.results[2] then
            args[i] = self:hold({ c = c, kind = "num", varies = varies }).c
        elseif not builtin.takes_text and not (c:find "^[%w_]+$" or c:find "^[%w_]+%b()$") then
            args[i] = "(" .. c .. ")"
        end
    end
    local emit = made.wide and builtin.wide.emit or builtin.emit
    local texts = emit(function(name) return self:need(name, varies) end, args, self.single, made.wide)
    local results = {}
    for i, c in ipairs(texts) do results[i] = { c = c, kind = made.wide or builtin.results[i], varies = varies } end
    return results
end

-- Has no loops, draws no random numbers, changes nothing and cannot fail: so lanes that do not call
-- it in Lua may call it too.
local function is_plain(inst)
    if inst.plain == nil then
        inst.plain = not inst.can_fail and not inst.has_loops and not inst.draws and not inst.has_refs
        for _, made in pairs(inst.calls) do
            if made.callee and not is_plain(made.callee) then inst.plain = false end
        end
    end
    return inst.plain
end

local function call_function(self, node, made)
    local callee = made.callee
    local given = self:values(node.args, made)
    local args = {}
    local takes_mask = callee.simd and not is_plain(callee)
    if takes_mask then args[1] = self:mask() or ("(%s)(-1)"):format(self.mask_type) end
    for _, input in ipairs(made.inputs) do
        if input.ref then
            args[#args + 1] = self:address(input.ref.var)
        elseif not input.static then
            local value = input.name and self:expr(input.name) or given[input.value]
            args[#args + 1] = bare(self:as(value, input.kind or "num", input.varies))
        end
    end
    local results = {}
    for i, result in ipairs(callee.results) do
        results[i] = { kind = result.kind, varies = callee.simd }
        if i > 1 then
            local t = self:temp "t"
            local c_type = self:type(result.kind, callee.simd)
            self:line("%s %s = 0;", c_type, t)
            args[#args + 1] = "&" .. t
            results[i].c = t
        end
    end
    self.unit:pass_captures(callee, args)
    local status, details
    if callee.can_fail then
        if callee.simd == self.inst.simd then
            args[#args + 1] = "status"
            if self.unit.details > 0 then args[#args + 1] = "detail" end
        else
            status = self:temp "s"
            self:line("long %s = 0;", status)
            args[#args + 1] = "&" .. status
            if self.unit.details > 0 then
                local name = self:temp "d"
                local text
                text, details = self.unit:declare_details(name, self.real)
                self:line("%s", text)
                args[#args + 1] = self.unit.details == 1 and "&" .. name or name
            end
        end
    end
    if callee.draws then args[#args + 1] = "draws" end
    if callee.watches then args[#args + 1] = "reads" end
    local text = ("%s(%s)"):format(self.unit.function_names[callee], table.concat(args, ", "))
    if #results == 0 then
        self:line("%s;", text)
    elseif #results == 1 and is_plain(callee) then
        results[1].c = text
    else
        results[1].c = self:temp "t"
        self:line("%s %s = %s;", self:type(results[1].kind, callee.simd), results[1].c, text)
    end
    if callee.watches then self:go_on_from_call(node) end
    if callee.never_returns then
        if status then
            self:fail(status, nil, details)
        elseif callee.simd then
            self:exit_lanes(true)
        else
            self:leave()
        end
    elseif status then
        self:open("if (%s) {", status)
        self:fail(status, nil, details)
        self:close()
    elseif callee.can_fail and callee.simd then
        local dead = self:temp "m"
        self:line("%s %s = %s;", self.mask_type, dead, self.single and ("convert_%s(*status != 0)"):format(self.mask_type)
            or "*status != 0")
        self:kill(dead, 1, #self.chain)
    elseif callee.can_fail then
        self:open("if (*status) {")
        self:leave()
        self:close()
    end
    return results
end

-- All the results of a call.
function Emitter:call(node)
    local made = self.inst.calls[node]
    if made.special then return special[made.special](self, node, made) end
    if made.builtin then return call_builtin(self, node, made) end
    return call_function(self, node, made)
end

function expressions.by_tag.Call(self, node)
    return self:call(node)[1] or literal(0) -- where there is none, the call never returns
end

-- The values of an expression list, as `values` in infer/walk.lua. `made`: the call whose arguments
-- these are. A call at the end gives all that it has, also where it was replaced by what it gave.
function Emitter:values(exprs, made)
    local statics = {}
    for _, input in ipairs(made and made.inputs or {}) do
        if input.static then statics[input.var] = true end
    end
    local params = made and made.callee.def.params
    local list = {}
    for i, node in ipairs(exprs) do
        if params and params[i] and statics[params[i]] then
            list[#list + 1] = { c = "", kind = "static", varies = false }
        elseif self.replaced and self.replaced[node] and self.replaced[node].all and i == #exprs then
            for _, value in ipairs(self.replaced[node].all) do list[#list + 1] = value end
        elseif node.tag == "Call" and i == #exprs and not self.inst.constants[node] and not (self.replaced and self.replaced[node]) then
            local results = self:call(node)
            if self.inst.calls[node].never_returns then results = { literal(0) } end
            for _, value in ipairs(results) do list[#list + 1] = value end
        else
            list[#list + 1] = self:expr(node)
        end
    end
    return list
end

return { is_plain = is_plain }
