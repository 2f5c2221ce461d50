-- emit.lua: an analysed program as OpenCL C.
--
-- One emitter writes two shapes. The scalar form (one lane) is what GPUs want: one work item for one element, plain control
-- flow. The vector form has W elements in the lanes of double8 or float16 and is what CPU devices want, several times as
-- fast there: what does not differ between lanes stays scalar, conditions that differ become masks, and lanes that return,
-- break or fail are cleared from the masks around them. The scalar form is the case in which nothing differs.
--
-- Masks form a chain, from that of the function (m0) to that of the innermost condition; a mask that is still known to be full
-- is not written. Instances in which nothing differs are scalar functions in either form.
--
-- Expressions are C text without side effects. What may fail, loop, or give several values is put into a variable by a statement
-- before; the operands of `and` and `or` that have such statements get them under a condition.

local infer = require "tidepool.gpu.infer"
local builtins = require "tidepool.gpu.builtins"

-- A reduction makes one number of each GROUP elements (TP_GROUP of host/block.h): LANES of them by the elements' places, one after the
-- other, and then one of these. It is the same on every device, and in lua/tidepool/reduce.lua.
-- LARGE: elements of a launch whose results (4 MiB of doubles) are written past a processor's caches.
local emit = { GROUP = 1024, LANES = 16, LARGE = 2 ^ 19 }

local C_ELEMENT = { double = "double", float = "float", int32 = "int", int16 = "short", int8 = "char", uint32 = "uint",
                    uint16 = "ushort", uint8 = "uchar", int64 = "long", uint64 = "ulong", bool = "uchar" }

---@class tidepool.gpu.Emitter writes one instance
local Emitter = {}
Emitter.__index = Emitter

---------------------------------------------------------------------------------------------------
-- Text

function Emitter:line(format, ...)
    self.lines[#self.lines + 1] = ("    "):rep(self.indent) .. format:format(...)
end

function Emitter:open(format, ...)
    self:line(format, ...)
    self.indent = self.indent + 1
end

function Emitter:close(text)
    self.indent = self.indent - 1
    self:line("%s", text or "}")
end

-- Runs `write` and gives what it returns and the lines that it wrote, which are not kept.
function Emitter:aside(write)
    local lines = self.lines
    self.lines = {}
    local result = write()
    local written = self.lines
    self.lines = lines
    return result, written
end

function Emitter:append(lines)
    for _, line in ipairs(lines) do self.lines[#self.lines + 1] = line end
end

-- A new name: t1, t2, ...
function Emitter:temp(letter)
    self.temps = self.temps + 1
    return letter .. self.temps
end

local function identifier(text)
    return (text:gsub("[^%w_]+", "_"):gsub("_+$", ""))
end

-- The C name of a local: its own with "_" behind, so that no keyword or builtin is hit, and a number where it is not the first.
function Emitter:name(var)
    local base = identifier(var.name)
    local count = (self.used[base] or 0) + 1
    self.used[base] = count
    self.names[var] = base .. "_" .. (count > 1 and count or "")
    return self.names[var]
end

function Emitter:mark(node)
    local source = self.inst.fn.source
    if self.marked ~= node.line then
        local text = (source.lines[node.line] or ""):gsub("^%s+", ""):gsub("[\\%s]+$", "")
        self:line("// %d: %s", node.line, text)
        self.marked = node.line
        self.lines[#self.lines + 1] = ("#line %d \"%s\""):format(node.line, source.file:gsub('[\\"]', "\\%0"))
    end
end

---------------------------------------------------------------------------------------------------
-- Types and values. A value is { c = text, kind =, varies =, literal = }; one of kind "maybe" has `cond` and `value` instead
-- of c.

function Emitter:type(kind, varies)
    if kind == "bool" then return varies and self.mask_type or "int" end
    local base = kind == "int" and "int" or kind == "long" and "long" or self.real
    return varies and base .. self.lanes or base
end

local function number_text(v, single)
    if v ~= v then return single and "NAN" or "(double)NAN" end
    if v == math.huge then return single and "INFINITY" or "(double)INFINITY" end
    if v == -math.huge then return single and "(-INFINITY)" or "(-(double)INFINITY)" end
    local text = ("%.15g"):format(v)
    if tonumber(text) ~= v then text = ("%.17g"):format(v) end
    if not text:find "[%.e]" then text = text .. ".0" end
    if single then text = text .. "f" end
    return (v < 0 or 1 / v < 0) and "(" .. text .. ")" or text
end

local function integer_text(v, long)
    if v == -2147483648 then return "(-2147483647 - 1)" end
    local text = ("%d"):format(v) .. (long and "L" or "")
    return v < 0 and "(" .. text .. ")" or text
end

local function literal(v)
    return { literal = v, kind = "k", varies = false }
end

-- The value as this kind, for all lanes if it varies.
function Emitter:as(value, kind, varies)
    if kind == "k" then kind = "num" end
    local c = value.c
    if value.literal then
        if kind == "num" then
            c = number_text(value.literal, self.single)
        elseif kind == "long" then
            c = integer_text(value.literal, true)
        elseif kind == "int" then
            c = integer_text(tonumber(require "bit".tobit(value.literal)), false)
        end
    elseif value.kind ~= kind then
        if value.kind == "num" and kind == "int" then
            c = ("%s(%s)"):format(self:need("lua_tobit", value.varies), c)
        elseif value.kind == "long" and kind == "int" then
            c = value.varies and ("convert_int%d(%s)"):format(self.lanes, c) or ("(int)%s"):format(c)
        elseif value.varies then
            c = ("convert_%s(%s)"):format(self:type(kind, true), c)
        else
            c = ("(%s)%s"):format(self:type(kind, false), c)
        end
    end
    if varies and not value.varies then
        if kind == "bool" then
            c = c == "1" and ("(%s)(-1)"):format(self.mask_type) or c == "0" and ("(%s)(0)"):format(self.mask_type)
                or ("(%s)(%s ? -1 : 0)"):format(self.mask_type, c)
        else
            c = ("(%s)(%s)"):format(self:type(kind, true), c)
        end
    end
    return c
end

-- Text without the parentheses around all of it.
local function bare(c)
    if c:sub(1, 1) == "(" and c:find "^%b()$" then return c:sub(2, -2) end
    return c
end

-- A mask for selecting among values of this kind, whose lanes may be wider or narrower.
function Emitter:mask_for(kind, mask)
    local wants = (kind == "int" or (self.single and kind ~= "long")) and "int" or "long"
    if wants == (self.single and "int" or "long") then return mask end
    return ("convert_%s%d(%s)"):format(wants, self.lanes, mask)
end

-- The name of a C helper in the form at hand.
function Emitter:need(name, varies)
    local lanes = varies and self.lanes or 1
    self.unit:helper(name, lanes)
    return name .. (lanes > 1 and lanes or "")
end

---------------------------------------------------------------------------------------------------
-- Masks. self.chain: { name =, full = it is known that all lanes are on, loop = the loop whose mask it is, kills = }

function Emitter:here()
    return self.chain[#self.chain]
end

-- The current mask's text, or nil when it is full.
function Emitter:mask()
    local entry = self:here()
    if not entry.full then return entry.name end
end

-- The lanes that are on here and for which a mask holds.
function Emitter:masked(c)
    local mask = self:mask()
    return mask and ("(%s & %s)"):format(mask, c) or c
end

function Emitter:push_mask(c, loop)
    local entry = { name = self:temp "m", full = false, loop = loop, kills = 0 }
    self:line("%s %s = %s;", self.mask_type, entry.name, bare(c))
    self.chain[#self.chain + 1] = entry
    return entry
end

function Emitter:pop_mask()
    self.chain[#self.chain] = nil
end

-- Clears lanes from the masks first..last of the chain.
function Emitter:kill(lanes, first, last)
    for i = last, first, -1 do
        local entry = self.chain[i]
        self:line("%s &= ~%s;", entry.name, lanes)
        entry.full = false
        entry.kills = entry.kills + 1
        if i == 1 then self.uses_m0 = true end
    end
end

-- Leaves the function with what is in the result variables.
function Emitter:leave()
    if #self.inst.results == 0 then
        self:line("return;")
    elseif self.inst.simd then
        self.uses_result = true
        self:line("return r1;")
    else
        self:line("return 0;")
    end
end

-- The current lanes, or those in `lanes` (a mask's name), end with a status.
function Emitter:fail(status, lanes)
    if not self.inst.simd then
        self:line("*status = %s;", status)
        self:leave()
        return
    end
    lanes = lanes or self:mask()
    local vector = ("(long%d)(%s)"):format(self.lanes, status)
    if not lanes then
        self:line("*status = %s;", vector)
        self:leave()
        return
    end
    self:line("*status = select(*status, %s, %s);", vector, self:mask_for("long", lanes))
    if lanes == self:mask() then
        self:exit_lanes(true)
    else
        self:kill(lanes, 1, #self.chain)
    end
end

-- All the current lanes are done with the function: their results or status are stored. `goes_on`: there is code behind
-- this that is still reached, by C if not by any lane.
function Emitter:exit_lanes(goes_on)
    local top = #self.chain
    if top == 1 then
        self:leave()
        return
    end
    local here = self:here()
    self:kill(here.name, 1, top - 1)
    if here.loop and here.loop == self.loops[#self.loops] then
        self:line("break;")
    elseif goes_on then
        self:line("%s = 0;", here.name)
        here.kills = here.kills + 1
    end
end

---------------------------------------------------------------------------------------------------
-- Expressions

local expression = {}

function Emitter:expr(node)
    return expression[node.tag](self, node)
end

function expression.Paren(self, node) return self:expr(node.expr) end
function expression.Nil() return { c = "0", kind = "nil", varies = false } end
function expression.True() return { c = "1", kind = "bool", varies = false } end
function expression.False() return { c = "0", kind = "bool", varies = false } end

function expression.Number(self, node)
    if self.inst.types[node] == "k" then return literal(node.value) end
    return { c = number_text(node.value, self.single), kind = "num", varies = false }
end

local function captured(self, static)
    local value = static.value
    if type(value) == "boolean" then return { c = value and "1" or "0", kind = "bool", varies = false } end
    if value == nil then return { c = "0", kind = "nil", varies = false } end
    return { c = self.unit:capture_name(self.inst.captured["number" .. static.key]), kind = "num", varies = false }
end

function expression.Name(self, node)
    local static = infer.static_of(self.inst, node)
    if static then return captured(self, static) end
    local known = self.inst.vars[node.var]
    return { c = self.names[node.var], kind = known.kind == "k" and "num" or known.kind or "num", varies = known.varies }
end

-- An element of a captured array: checked, and an element (or lane) of the map that misses it fails.
local function element(self, node)
    local entry = self.inst.captured["array" .. infer.static_of(self.inst, node.object).key]
    local array, length = self.unit:capture_name(entry)
    local kind = self.inst.types[node]
    local code = self.inst.codes[node]
    local index = self:expr(node.key)
    local c_type = self:type(kind, false)
    if index.varies then
        local i, bad = self:temp "i", self:temp "m"
        local limit = ("(%s)%s"):format(self.real, length)
        local one = number_text(1, self.single)
        self:line("%s %s = %s;", self:type("num", true), i, bare(self:as(index, "num", true)))
        self:line("%s %s = %s;", self.mask_type, bad, bare(self:masked(("~((%s >= %s) & (%s <= %s) & (%s == floor(%s)))")
            :format(i, one, i, limit, i, i))))
        self:open("if (any(%s)) {", bad)
        self:fail(("%d | (convert_long%d(%s) << 8)"):format(code, self.lanes, i), bad)
        self:close()
        local at, lanes = self:temp "k", {}
        local wide = ("convert_int%d(%s - %s)"):format(self.lanes, i, one)
        self:line("int%d %s = select((int%d)(0), %s, %s);", self.lanes, at, self.lanes, wide, self:mask_for("int", self:mask()))
        for k = 0, self.lanes - 1 do lanes[k + 1] = ("(%s)%s[%s.s%x]"):format(c_type, array, at, k) end
        local t = self:temp "t"
        self:line("%s %s = (%s)(%s);", self:type(kind, true), t, self:type(kind, true), table.concat(lanes, ", "))
        return { c = t, kind = kind, varies = true }
    end
    local i = self:temp "i"
    if index.kind == "num" then
        self:line("%s %s = %s;", self.real, i, bare(index.c))
        self:open("if (!(%s >= 1 && %s <= %s && %s == floor(%s))) {", i, i, length, i, i)
    else
        self:line("long %s = %s;", i, bare(self:as(index, "long", false)))
        self:open("if (%s < 1 || %s > %s) {", i, i, length)
    end
    self:fail(("%d | ((long)%s << 8)"):format(code, i))
    self:close()
    local t = self:temp "t"
    -- In the vector form the lanes may all have failed by now.
    local at = index.kind == "num" and ("(long)%s - 1"):format(i) or ("%s - 1"):format(i)
    local read = ("(%s)%s[%s]"):format(c_type, array, at)
    if self.inst.simd and #self.chain > 1 then
        read = ("%s >= 1 && %s <= %s ? %s : 0"):format(i, i, length, read)
    end
    self:line("%s %s = %s;", c_type, t, read)
    return { c = t, kind = kind, varies = false }
end

function expression.Index(self, node)
    local static = infer.static_of(self.inst, node)
    if static then return captured(self, static) end
    return element(self, node)
end

function expression.Unop(self, node)
    if node.op == "not" then
        local value = self:condition(node.expr)
        return { c = ("(%s%s)"):format(value.varies and "~" or "!", value.c), kind = "bool", varies = value.varies }
    elseif node.op == "#" then
        local static = infer.static_of(self.inst, node.expr)
        local _, length = self.unit:capture_name(self.inst.captured["array" .. static.key])
        return { c = length, kind = "long", varies = false }
    end
    local value = self:expr(node.expr)
    if value.literal and value.literal ~= 0 then return literal(-value.literal) end
    return { c = ("(-%s)"):format(self:as(value, "num", value.varies)), kind = "num", varies = value.varies }
end

local C_COMPARE = { ["=="] = "==", ["~="] = "!=", ["<"] = "<", [">"] = ">", ["<="] = "<=", [">="] = ">=" }

local function compare(self, op, a, b)
    local varies = a.varies or b.varies
    local is_equality = op == "==" or op == "~="
    if is_equality and (a.kind == "bool" or b.kind == "bool" or a.kind == "nil" or b.kind == "nil") then
        if a.kind ~= b.kind or a.kind == "nil" then
            return { c = (a.kind == b.kind) == (op == "==") and "1" or "0", kind = "bool", varies = false }
        end
        local x, y = self:as(a, "bool", varies), self:as(b, "bool", varies)
        if not varies then return { c = ("(%s %s %s)"):format(x, C_COMPARE[op], y), kind = "bool", varies = false } end
        return { c = ("(%s(%s ^ %s))"):format(op == "==" and "~" or "", x, y), kind = "bool", varies = true }
    end
    local kind = "num"
    for _, each in ipairs { "int", "long" } do
        if (a.kind == each or a.literal) and (b.kind == each or b.literal) and not (a.literal and b.literal) then kind = each end
    end
    local c = ("(%s %s %s)"):format(self:as(a, kind, varies), C_COMPARE[op], self:as(b, kind, varies))
    if varies and (kind == "num" and self.single or kind == "int") ~= self.single then
        c = ("convert_%s%s"):format(self.mask_type, c)
    end
    return { c = c, kind = "bool", varies = varies }
end

function expression.Binop(self, node)
    local op = node.op
    local a, b = self:expr(node.left), self:expr(node.right)
    if C_COMPARE[op] then return compare(self, op, a, b) end
    local varies = a.varies or b.varies
    local kind = self.inst.types[node] == "long" and "long" or "num"
    if op == "%" or op == "^" then
        local power = op == "^" and b.literal
        if power == 2 or power == 3 or power == 4 then
            local x = self:as(a, "num", varies)
            if not x:find "^[%w_]+$" then
                local t = self:temp "t"
                self:line("%s %s = %s;", self:type("num", varies), t, bare(x))
                x = t
            end
            local square = ("(%s * %s)"):format(x, x)
            local c = power == 2 and square or power == 3 and ("(%s * %s)"):format(square, x)
                or ("(%s * %s)"):format(square, square)
            return { c = c, kind = "num", varies = varies }
        end
        return { c = ("%s(%s, %s)"):format(self:need(op == "%" and "lua_mod" or "lua_pow", varies),
            bare(self:as(a, "num", varies)), bare(self:as(b, "num", varies))), kind = "num", varies = varies }
    end
    -- A scalar operand of a vector one is widened by C.
    return { c = ("(%s %s %s)"):format(self:as(a, kind, a.varies), op, self:as(b, kind, b.varies)), kind = kind,
             varies = varies }
end

-- Emits the right operand of `and` or `or` for the lanes in `cond` only. Gives the value, and the lines that it needs, which
-- stand under the condition but are not yet written.
function Emitter:lazily(cond, want, evaluate)
    local entry
    local chain = #self.chain
    self.indent = self.indent + 1
    local opened
    local value, lines = self:aside(function()
        if cond.varies then
            -- The mask's own line comes first; it is kept apart, since it may not be needed.
            local _, declared = self:aside(function() entry = self:push_mask(self:masked(want(cond.c)), nil) end)
            opened = declared
        end
        return evaluate()
    end)
    self.indent = self.indent - 1
    while #self.chain > chain do self:pop_mask() end
    return value, lines, opened, entry
end

-- Declares a variable, and gives it a value under a condition with the lines that are needed for it.
function Emitter:conditional(cond, want, kind, varies, initial, value, lines, opened, entry)
    local t = self:temp "t"
    self:line("%s %s = %s;", self:type(kind, varies), t, bare(initial))
    if entry then
        for _, line in ipairs(opened) do self.lines[#self.lines + 1] = (line:gsub("^    ", "")) end
        self:open("if (any(%s)) {", entry.name)
    else
        self:open("if (%s) {", bare(want(cond.c)))
    end
    self:append(lines)
    local c = self:as(value, kind, varies)
    if entry then
        self:line("%s = select(%s, %s, %s);", t, t, c, self:mask_for(kind, entry.name))
    else
        self:line("%s = %s;", t, bare(c))
    end
    self:close()
    return { c = t, kind = kind, varies = varies }
end

-- The same for a number or false.
function Emitter:conditional_maybe(cond, want, value, lines, opened, entry)
    local varies = cond.varies or value.varies
    local kept = self:temp "t"
    self:line("%s %s = 0;", self:type("num", varies), kept)
    local _, more = self:aside(function()
        self.indent = self.indent + 1
        local c = self:as(value.value, "num", varies)
        self:line("%s = %s;", kept, entry and ("select(%s, %s, %s)"):format(kept, bare(c), self:mask_for("num", entry.name))
            or bare(c))
        self.indent = self.indent - 1
    end)
    for _, line in ipairs(more) do lines[#lines + 1] = line end
    local truth = self:conditional(cond, want, "bool", varies, "0", value.cond, lines, opened, entry)
    return { kind = "maybe", cond = truth, value = { c = kept, kind = "num", varies = varies }, varies = varies }
end

local function as_is(c) return c end

-- `not` of a condition's text.
local function negation(cond)
    return function(c) return ("(%s%s)"):format(cond.varies and "~" or "!", c) end
end

-- cond ? a : b, both of them without statements.
function Emitter:choose(cond, kind, a, b)
    local varies = cond.varies or a.varies or b.varies
    local x, y = self:as(a, kind, varies), self:as(b, kind, varies)
    local c
    if cond.varies then
        c = ("select(%s, %s, %s)"):format(bare(y), bare(x), bare(self:mask_for(kind, cond.c)))
    else
        c = ("(%s ? %s : %s)"):format(cond.c, x, y)
    end
    return { c = c, kind = kind, varies = varies }
end

-- Keeps a text from being written twice or from moving behind later statements.
function Emitter:hold(value)
    if value.literal or value.c:find "^[%w_]+$" then return value end
    local t = self:temp "t"
    self:line("%s %s = %s;", self:type(value.kind, value.varies), t, bare(value.c))
    return { c = t, kind = value.kind, varies = value.varies }
end

local function both(self, a, b, op)
    local varies = a.varies or b.varies
    local sign = varies and (op == "and" and "&" or "|") or (op == "and" and "&&" or "||")
    return { c = ("(%s %s %s)"):format(self:as(a, "bool", varies), sign, self:as(b, "bool", varies)), kind = "bool",
             varies = varies }
end

-- `a and b` or `a or b` of which only the truth is wanted, or both of which are booleans.
local function logical(self, left, op, evaluate)
    local want = op == "and" and as_is or negation(left)
    local right, lines, opened, entry = self:lazily(left, want, evaluate)
    if #lines == 0 then return both(self, left, right, op) end
    left = self:hold(left)
    want = op == "and" and as_is or negation(left)
    local varies = left.varies or right.varies
    return self:conditional(left, want, "bool", varies, self:as(left, "bool", varies), right, lines, opened, entry)
end

function expression.And(self, node)
    local truth = infer.truth_of(self.inst, node.left)
    if truth ~= nil then return self:expr(truth and node.right or node.left) end
    local kind = self.inst.types[node]
    local left = self:condition(node.left)
    if kind == "bool" then return logical(self, left, "and", function() return self:expr(node.right) end) end
    local value, lines, opened, entry = self:lazily(left, as_is, function() return self:expr(node.right) end)
    if kind ~= "maybe" then   -- the left side is a number: always true
        self:append(lines)
        return value
    end
    if value.kind == "maybe" then
        if #lines > 0 then
            left = self:hold(left)
            value = self:conditional_maybe(left, as_is, value, lines, opened, entry)
        end
        return { kind = "maybe", cond = both(self, left, value.cond, "and"), value = value.value,
                 varies = left.varies or value.varies }
    end
    if #lines > 0 then
        left = self:hold(left)
        local varies = left.varies or value.varies
        value = self:conditional(left, as_is, "num", varies, self:as(literal(0), "num", varies), value, lines, opened, entry)
    end
    return { kind = "maybe", cond = left, value = value, varies = left.varies or value.varies }
end

function expression.Or(self, node)
    local truth = infer.truth_of(self.inst, node.left)
    if truth ~= nil then return self:expr(truth and node.left or node.right) end
    local left = self:expr(node.left)
    if infer.truth_of(self.inst, node.right) == false then return left end
    if left.kind == "bool" then return logical(self, left, "or", function() return self:expr(node.right) end) end
    if left.kind == "nil" then return self:expr(node.right) end
    if left.kind ~= "maybe" then return left end
    local cond, value = left.cond, left.value
    local right, lines, opened, entry = self:lazily(cond, negation(cond), function() return self:expr(node.right) end)
    if right.kind == "maybe" then
        cond = self:hold(cond)
        if #lines > 0 then right = self:conditional_maybe(cond, negation(cond), right, lines, opened, entry) end
        local chosen = self:choose(cond, "num", value, right.value)
        return { kind = "maybe", cond = both(self, cond, right.cond, "or"), value = chosen,
                 varies = cond.varies or chosen.varies }
    end
    if #lines == 0 then return self:choose(cond, "num", value, right) end
    cond = self:hold(cond)
    local varies = cond.varies or value.varies or right.varies
    return self:conditional(cond, negation(cond), "num", varies, self:as(value, "num", varies), right, lines, opened, entry)
end

-- The truth of an expression: a value of kind "bool".
function Emitter:condition(node)
    if node.tag == "Paren" then return self:condition(node.expr) end
    local truth = infer.truth_of(self.inst, node)
    if truth ~= nil then return { c = truth and "1" or "0", kind = "bool", varies = false } end
    if node.tag == "And" or node.tag == "Or" then
        if infer.truth_of(self.inst, node.left) ~= nil then return self:condition(node.right) end
        local left = self:condition(node.left)
        return logical(self, left, node.op, function() return self:condition(node.right) end)
    end
    local value = self:expr(node)
    if value.kind == "maybe" then return value.cond end
    if value.kind == "bool" then return value end
    return { c = value.kind == "nil" and "0" or "1", kind = "bool", varies = false }
end

---------------------------------------------------------------------------------------------------
-- Calls

local special = {}

function special.error(self, _, made)
    self:fail(("%d"):format(made.code))
    return {}
end

function special.assert(self, node, made)
    local cond = self:condition(node.args[1])
    if cond.c == "1" then return {} end
    if cond.varies then
        local bad = self:temp "m"
        self:line("%s %s = %s;", self.mask_type, bad, bare(self:masked("~" .. cond.c)))
        self:open("if (any(%s)) {", bad)
        self:fail(("%d"):format(made.code), bad)
        self:close()
    else
        self:open("if (!%s) {", cond.c)
        self:fail(("%d"):format(made.code))
        self:close()
    end
    return {}
end

function special.tonumber(self, node)
    local arg = node.args[1]
    return { self:expr(arg) }
end

local function call_builtin(self, node, made)
    local builtin, args, varies = made.builtin, {}, false
    local given = self:values(node.args)
    for _, value in ipairs(given) do varies = varies or value.varies end
    for i, value in ipairs(given) do args[i] = bare(self:as(value, builtin.arg, varies)) end
    for i, c in ipairs(args) do
        if builtin.results[2] then
            args[i] = self:hold({ c = c, kind = "num", varies = varies }).c
        elseif builtin.operators and not (c:find "^[%w_]+$" or c:find "^[%w_]+%b()$") then
            args[i] = "(" .. c .. ")"
        end
    end
    local texts = builtin.emit(function(name) return self:need(name, varies) end, args, self.single)
    local results = {}
    for i, c in ipairs(texts) do results[i] = { c = c, kind = builtin.results[i], varies = varies } end
    return results
end

-- Loops, or may fail: to be called only by those lanes that call it in Lua.
local function is_plain(inst)
    if inst.plain == nil then
        inst.plain = not inst.can_fail and not inst.has_loops
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
        if not input.static then
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
    local status
    if callee.can_fail then
        if callee.simd == self.inst.simd then
            args[#args + 1] = "status"
        else
            status = self:temp "s"
            self:line("long %s = 0;", status)
            args[#args + 1] = "&" .. status
        end
    end
    local text = ("%s(%s)"):format(self.unit.function_names[callee], table.concat(args, ", "))
    if #results == 0 then
        self:line("%s;", text)
    elseif #results == 1 and is_plain(callee) then
        results[1].c = text
    else
        results[1].c = self:temp "t"
        self:line("%s %s = %s;", self:type(results[1].kind, callee.simd), results[1].c, text)
    end
    if status then
        self:open("if (%s) {", status)
        self:fail(status)
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

function expression.Call(self, node)
    return self:call(node)[1]
end

-- The values of an expression list, as infer's `values`. `made`: a call whose arguments these are.
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
        elseif node.tag == "Call" and i == #exprs then
            for _, value in ipairs(self:call(node)) do list[#list + 1] = value end
        else
            list[#list + 1] = self:expr(node)
        end
    end
    return list
end

---------------------------------------------------------------------------------------------------
-- Statements

local statement = {}

local function has_more_work(list, from)
    local function works(node)
        if type(node) ~= "table" then return false end
        local tag = node.tag
        if tag == "While" or tag == "Repeat" or tag == "Fornum" or tag == "Call" then return true end
        for key, child in pairs(node) do
            if key ~= "var" and key ~= "vars" and type(child) == "table" and works(child) then return true end
        end
        return false
    end
    for i = from, #list do
        if list[i].tag ~= "LocalFunction" and works(list[i]) then return true end
    end
    return false
end

-- A block. Gives whether control cannot come out behind it. When a statement may have ended all lanes, what follows is left out or put
-- under a condition: a scalar loop in it
-- might otherwise run on, without any lane that would have kept it finite.
function Emitter:block(list)
    local opened, ended = 0, false
    for i, node in ipairs(list) do
        local here = self:here()
        local kills = here.kills
        self:mark(node)
        statement[node.tag](self, node)
        if self.inst.ends[node] then
            ended = true
            break
        end
        if here.kills > kills and has_more_work(list, i + 1) then
            if #self.chain == 1 then
                self:line("if (!any(%s)) {", here.name)
                self.indent = self.indent + 1
                self:leave()
                self:close()
            elseif here.loop and here.loop == self.loops[#self.loops] then
                self:line("if (!any(%s)) break;", here.name)
            else
                self:open("if (any(%s)) {", here.name)
                opened = opened + 1
            end
        end
    end
    for _ = 1, opened do self:close() end
    return ended
end

function Emitter:declare(var)
    self.levels[var] = #self.chain
    return self:name(var)
end

function statement.Local(self, node)
    local given, at = self:values(self.inst.lists[node]), 0
    for _, var in ipairs(node.vars) do
        local known = self.inst.vars[var]
        if not known.static then
            at = at + 1
            local value = given[at]
            if known.kind then
                local c = "0"
                if value and value.kind ~= "nil" then c = bare(self:as(value, known.kind, known.varies)) end
                self:line("%s %s = %s;", self:type(known.kind, known.varies), self:declare(var), c)
            end
        end
    end
end

function statement.LocalFunction() end

-- The lanes' values into an element of a captured array, one lane after the other, so that the last one's stays, as in Lua.
local function store_lanes(self, node, value, array, limit, ctype)
    local i, bad = self:temp "i", self:temp "m"
    local one = number_text(1, self.single)
    self:line("%s %s = %s;", self:type("num", true), i, bare(self:as(self:expr(node.key), "num", true)))
    self:line("%s %s = %s;", self.mask_type, bad, bare(self:masked(("~((%s >= %s) & (%s <= %s) & (%s == floor(%s)))")
        :format(i, one, i, limit, i, i))))
    self:open("if (any(%s)) {", bad)
    self:fail(("%d | (convert_long%d(%s) << 8)"):format(self.inst.codes[node], self.lanes, i), bad)
    self:close()
    local at, t, mask = self:temp "k", self:temp "t", self:mask()
    self:line("int%d %s = convert_int%d(%s - %s);", self.lanes, at, self.lanes, i, one)
    self:line("%s%d %s = %s;", C_ELEMENT[ctype], self.lanes, t, self.unit:stored(self:as(value, value.kind, true), value.kind, ctype, self.lanes))
    for k = 0, self.lanes - 1 do
        self:line("%s%s[%s.s%x] = %s.s%x;", mask and ("if (%s.s%x) "):format(mask, k) or "", array, at, k, t, k)
    end
end

local function store_element(self, node, value)
    local entry = self.inst.captured["array" .. infer.static_of(self.inst, node.object).key]
    local array, length = self.unit:capture_name(entry)
    if value.kind == "k" then value = { c = self:as(value, "num", false), kind = "num", varies = false } end
    value = self:hold(value)
    if self.inst.simd then return store_lanes(self, node, value, array, ("(%s)%s"):format(self.real, length), entry.ctype) end
    local i, index = self:temp "i", self:expr(node.key)
    self:line("%s %s = %s;", self.real, i, bare(self:as(index, "num", false)))
    self:open("if (!(%s >= 1 && %s <= %s && %s == floor(%s))) {", i, i, length, i, i)
    self:fail(("%d | ((long)%s << 8)"):format(self.inst.codes[node], i))
    self:close()
    self:line("%s[(long)%s - 1] = %s;", array, i, self.unit:stored(value.c, value.kind, entry.ctype, 1))
end

function statement.Assign(self, node)
    local given = self:values(node.exprs)
    if node.targets[1].tag == "Index" then return store_element(self, node.targets[1], given[1]) end
    local texts = {}
    for i, target in ipairs(node.targets) do
        local known = self.inst.vars[target.var]
        texts[i] = self:as(given[i], known.kind, known.varies)
        if #node.targets > 1 then
            local t = self:temp "t"
            self:line("%s %s = %s;", self:type(known.kind, known.varies), t, bare(texts[i]))
            texts[i] = t
        end
    end
    for i, target in ipairs(node.targets) do
        local var = target.var
        local known, name = self.inst.vars[var], self.names[var]
        if known.varies and #self.chain > self.levels[var] then
            self:line("%s = select(%s, %s, %s);", name, name, bare(texts[i]),
                self:mask_for(known.kind == "k" and "num" or known.kind, self:mask()))
        else
            self:line("%s = %s;", name, bare(texts[i]))
        end
    end
end

function statement.CallStat(self, node)
    self:call(node.call)
end

function statement.Do(self, node)
    self:open("{")
    self:block(node.body)
    self:close()
end

-- The clauses from `first` on; `is_else`: behind the "}" of the one before, which is not written yet.
local function clauses(self, node, first, is_else)
    local clause = node.clauses[first]
    local truth = clause and infer.truth_of(self.inst, clause.cond)
    if truth == false then return clauses(self, node, first + 1, is_else) end
    if is_else then
        -- "else if" where the condition needs no statements before it.
        if clause and truth == nil and not self.inst.varies[clause] then
            local cond, lines = self:aside(function() return self:condition(clause.cond) end)
            if #lines == 0 then
                self:close(("} else if (%s) {"):format(bare(cond.c)))
                self.indent = self.indent + 1
                self:block(clause.body)
                return clauses(self, node, first + 1, true)
            end
        end
        if clause or node.orelse then
            self:close "} else {"
            self.indent = self.indent + 1
            clauses(self, node, first, false)
        end
        self:close()
        return
    end
    if not clause or truth then
        local body = clause and clause.body or node.orelse
        if body then self:block(body) end
        return
    end
    local cond = self:condition(clause.cond)
    if not self.inst.varies[clause] then
        self:open("if (%s) {", bare(cond.c))
        self:block(clause.body)
        return clauses(self, node, first + 1, true)
    end
    local entry = self:push_mask(self:masked(self:as(cond, "bool", true)))
    self:open("if (any(%s)) {", entry.name)
    self:block(clause.body)
    self:close()
    self:pop_mask()
    if node.clauses[first + 1] or node.orelse then
        local other = self:push_mask(self:masked("~" .. entry.name))
        self:open("if (any(%s)) {", other.name)
        clauses(self, node, first + 1, false)
        self:close()
        self:pop_mask()
    end
end

function statement.If(self, node)
    clauses(self, node, 1, false)
end

-- Opens a loop's mask if its lanes leave at different times. Gives the loop.
function Emitter:open_loop(node)
    local loop = { node = node }
    self.loops[#self.loops + 1] = loop
    if self.inst.loop_varies[node] then
        loop.index = #self.chain + 1
        loop.entry = self:push_mask(self:mask() or ("(%s)(-1)"):format(self.mask_type), loop)
    end
    return loop
end

function Emitter:close_loop(loop)
    self:close()
    if loop.entry then self:pop_mask() end
    self.loops[#self.loops] = nil
end

-- Leaves the loop where `cond` holds (`negate`: where it does not).
local function leave_loop(self, loop, cond, negate)
    if loop.entry and cond.varies then
        self:line("%s &= %s%s;", loop.entry.name, negate and "" or "~", cond.c)
    elseif cond.c ~= (negate and "1" or "0") then
        self:line("if (%s%s) break;", negate and "!" or "", negate and cond.c or bare(cond.c))
    end
    if loop.entry then self:line("if (!any(%s)) break;", loop.entry.name) end
end

statement["While"] = function(self, node)
    if infer.truth_of(self.inst, node.cond) == false then return end
    local loop = self:open_loop(node)
    self:open("for (;;) {")
    leave_loop(self, loop, self:condition(node.cond), true)
    self:block(node.body)
    self:close_loop(loop)
end

statement["Repeat"] = function(self, node)
    local loop = self:open_loop(node)
    self:open("for (;;) {")
    if not self:block(node.body) then
        leave_loop(self, loop, self:condition(node.cond), false)
    elseif loop.entry then
        -- No lane comes here, but C does: the lanes that left an inner loop by `return` ended it with a break.
        self:line("if (!any(%s)) break;", loop.entry.name)
    end
    self:close_loop(loop)
end

local function step_of(node)
    if not node then return 1 end
    if node.tag == "Number" then return node.value end
    if node.tag == "Unop" and node.op == "-" and node.expr.tag == "Number" then return -node.expr.value end
end

-- A number that is evaluated once, before the loop.
local function loop_number(self, value, kind, letter)
    local c = self:as(value, kind, value.varies)
    if value.literal then return { c = c, kind = kind, varies = false } end
    local t = self:temp(letter)
    self:line("%s %s = %s;", self:type(kind, value.varies), t, bare(c))
    return { c = t, kind = kind, varies = value.varies }
end

function statement.Fornum(self, node)
    local var, how = node.var, self.inst.fornum[node]
    local step = step_of(node.step)
    local kind = how.counter
    self:open("{")
    local start = self:expr(node.start)
    if not start.literal then start = self:hold { c = self:as(start, kind, start.varies), kind = kind, varies = start.varies } end
    local limit = self:expr(node.limit)
    if kind == "long" and not limit.varies and limit.kind == "num" then
        limit = { c = ("%s(%s)"):format(self:need(step > 0 and "lua_last_up" or "lua_last_down", false), bare(limit.c)),
                  kind = "long", varies = false }
    end
    limit = loop_number(self, limit, (kind == "long" and not limit.varies) and "long" or "num", "n")
    local by = literal(1)
    if node.step then
        by = self:expr(node.step)
        if kind == "num" then by = loop_number(self, by, "num", "d") end
    end
    local known = self.inst.vars[var]
    local varies = how.varies
    local loop = self:open_loop(node)
    self.levels[var] = #self.chain
    local name = self:name(var)
    local counter = var.assigned and self:temp "c" or name
    local going   -- the condition to go on, a value
    local index = { c = counter, kind = kind, varies = varies }
    if step then
        going = compare(self, step > 0 and "<=" or ">=", index, limit)
    else
        local up, down = compare(self, "<=", index, limit), compare(self, ">=", index, limit)
        local is_up = compare(self, ">=", by, literal(0))
        if is_up.varies or up.varies then
            local c = self:as(is_up, "bool", true)
            going = { c = ("((%s & %s) | (~%s & %s))"):format(c, self:as(up, "bool", true), c, self:as(down, "bool", true)),
                      kind = "bool", varies = true }
        else
            going = { c = ("(%s ? %s : %s)"):format(is_up.c, up.c, down.c), kind = "bool", varies = false }
        end
    end
    local head = going.varies and "" or bare(going.c) .. (loop.entry and (" && any(%s)"):format(loop.entry.name) or "")
    self:open("for (%s %s = %s; %s; %s += %s) {", self:type(kind, varies), counter, bare(self:as(start, kind, varies)), head,
        counter, self:as(by, kind, false or by.varies))
    if going.varies then leave_loop(self, loop, going, true) end
    if var.assigned then
        self:line("%s %s = %s;", self:type(known.kind, known.varies), name, self:as(index, known.kind, known.varies))
    end
    self:block(node.body)
    self:close_loop(loop)
    self:close()
end

statement["Break"] = function(self)
    local loop = self.loops[#self.loops]
    if not loop.entry or self:here() == loop.entry then
        self:line("break;")
    else
        self:kill(self:here().name, loop.index, #self.chain - 1)
    end
end

statement["Return"] = function(self, node)
    local results = self.inst.results
    local given = self:values(node.exprs)
    local direct = #self.chain == 1 and (not self.inst.simd or self:here().full)
    for i, value in ipairs(given) do
        local kind = results[i].kind
        local c = self:as(value, kind, self.inst.simd)
        local place = i == 1 and "r1" or "*r" .. i
        if i == 1 and direct then
            given[1].text = bare(c)
        elseif direct then
            self:line("%s = %s;", place, bare(c))
        else
            if i == 1 then self.uses_result = true end
            local mask = self:mask()
            self:line("%s = %s;", place, mask and ("select(%s, %s, %s)"):format(place, bare(c), self:mask_for(kind, mask))
                or bare(c))
        end
    end
    if direct then
        self:line("return%s;", given[1] and " " .. given[1].text or "")
    else
        self:exit_lanes()
    end
end

function statement.Label() end

---------------------------------------------------------------------------------------------------
-- Functions and the kernel

---@class tidepool.gpu.Unit the text of a whole program
local Unit = {}
Unit.__index = Unit

-- Makes sure that a C helper is in the text.
function Unit:helper(name, lanes)
    local key = name .. lanes
    if self.helpers[key] then return end
    self.helpers[key] = true
    local text, needs, needs_lanes = builtins.helper(name, lanes, self.single)
    if needs then self:helper(needs, needs_lanes) end
    self.prelude[#self.prelude + 1] = text
end

-- The C name of a captured number or array, and of the array's length.
function Unit:capture_name(entry)
    local name = self.capture_names[entry]
    if not name then
        local base = (entry.kind == "array" and "array_" or "captured_") .. identifier(entry.static.path)
        name = base
        local count = 1
        while self.taken[name] do
            count = count + 1
            name = base .. "_" .. count
        end
        self.taken[name] = true
        self.capture_names[entry] = name
    end
    return name, entry.kind == "array" and "length_of_" .. name or nil
end

-- Adds what a call of that instance passes for its captures, in the order of its parameters.
function Unit:pass_captures(inst, args)
    for _, entry in ipairs(inst.captures) do
        local name, length = self:capture_name(entry)
        args[#args + 1] = name
        if length then args[#args + 1] = length end
    end
end

function Unit:capture_parameters(entry, list)
    local name, length = self:capture_name(entry)
    if entry.kind == "array" then
        list[#list + 1] = ("__global %s%s *%s"):format(entry.is_written and "" or "const ", C_ELEMENT[entry.ctype], name)
        list[#list + 1] = "long " .. length
    else
        list[#list + 1] = ("%s %s"):format(self.real, name)
    end
end

-- Writes one instance as a function.
function Unit:instance(inst)
    local e = setmetatable({
        unit = self, inst = inst, lanes = self.lanes, real = self.real, single = self.single, mask_type = self.mask_type,
        lines = {}, indent = 1, temps = 0, used = {}, names = {}, levels = {}, loops = {},
        chain = { { name = "m0", full = true, kills = 0 } },
    }, Emitter)
    local name = "lua_" .. (inst.name and identifier(inst.name) or "main")
    self.function_count[name] = (self.function_count[name] or 0) + 1
    self.function_names[inst] = name .. "_" .. self.function_count[name]
    local parameters = {}
    for _, input in ipairs(inst.inputs) do
        if not input.static then
            local known = inst.vars[input.var]
            local c_name = e:declare(input.var)
            -- A parameter whose type has grown in the body starts as what it is given as.
            if known.kind ~= input.kind or known.varies ~= input.varies then
                parameters[#parameters + 1] = ("%s given_%s"):format(e:type(input.kind or "num", input.varies), c_name)
                local given = { c = "given_" .. c_name, kind = input.kind or "num", varies = input.varies }
                e:line("%s %s = %s;", e:type(known.kind, known.varies), c_name, e:as(given, known.kind or "num", known.varies))
            else
                parameters[#parameters + 1] = ("%s %s"):format(e:type(known.kind or "num", known.varies), c_name)
            end
        end
    end
    for _, param in ipairs(inst.def.params) do
        if not e.names[param] and inst.vars[param].kind then
            e:line("%s %s = 0;", e:type(inst.vars[param].kind, inst.vars[param].varies), e:declare(param))
        end
    end
    for i = 2, #inst.results do parameters[#parameters + 1] = ("%s *r%d"):format(e:type(inst.results[i].kind, inst.simd), i) end
    for _, entry in ipairs(inst.captures) do self:capture_parameters(entry, parameters) end
    if inst.can_fail then parameters[#parameters + 1] = inst.simd and ("long%d *status"):format(self.lanes) or "long *status" end
    local takes_mask = inst.simd and inst ~= self.program.root and not is_plain(inst)
    if takes_mask then
        table.insert(parameters, 1, self.mask_type .. " m0")
        e.chain[1].full = false
    end
    e:block(inst.def.body)
    if inst.simd and e.uses_result and e.lines[#e.lines] ~= "    return r1;" then e:line("return r1;") end
    local head = {}
    local result = inst.results[1] and e:type(inst.results[1].kind, inst.simd) or "void"
    head[1] = ("static %s %s(%s)\n{"):format(result, self.function_names[inst],
        #parameters > 0 and table.concat(parameters, ", ") or "void")
    if e.uses_m0 and not takes_mask then head[#head + 1] = ("    %s m0 = -1;"):format(self.mask_type) end
    if e.uses_result then head[#head + 1] = ("    %s r1 = 0;"):format(result) end
    self.functions[#self.functions + 1] = ("// %s, %s:%d\n%s\n%s\n}\n"):format(inst.name or "the function",
        inst.fn.source.file, inst.def.line, table.concat(head, "\n"), table.concat(e.lines, "\n"))
end

-- Text that converts a real or int to the storage type of an output, as a cast of C (and of LuaJIT's FFI) does.
function Unit:stored(c, kind, ctype, lanes)
    local suffix = lanes > 1 and tostring(lanes) or ""
    local target = C_ELEMENT[ctype] .. suffix
    if kind == "bool" then
        return lanes > 1 and ("convert_%s(%s & 1)"):format(target, c) or ("(uchar)(%s != 0)"):format(c)
    end
    if ctype == "double" or ctype == "float" then
        if kind ~= "num" then c = ("convert_%s%s(%s)"):format(self.real, suffix, c) end
        self:helper("lua_number", lanes)
        c = ("lua_number%s(%s)"):format(suffix, c)
        return ctype == self.real and c or ("convert_%s(%s)"):format(target, c)
    end
    if kind == "num" then c = ("convert_long%s(%s)"):format(suffix, c) end
    return ("convert_%s(%s)"):format(target, c)
end

-- The kernel around the function: loads, the call, stores.
function Unit:kernel(name, inputs, outputs)
    local root, lanes = self.program.root, self.lanes
    local simd = lanes > 1
    local parameters = { "ulong first", "ulong count" }
    for _, input in ipairs(inputs) do
        parameters[#parameters + 1] = ("__global const %s *in_%d"):format(C_ELEMENT[input.ctype], input.index)
    end
    for i, output in ipairs(outputs) do
        parameters[#parameters + 1] = ("__global %s *out_%d"):format(C_ELEMENT[output.ctype], i)
    end
    if root.can_fail then parameters[#parameters + 1] = "__global uchar *failed" end
    for _, entry in ipairs(self.program.captures) do self:capture_parameters(entry, parameters) end

    local body = {}
    local function line(format, ...) body[#body + 1] = "    " .. format:format(...) end
    local function kind_type(kind)
        if kind == "bool" then return simd and self.mask_type or "int" end
        return (kind == "int" and "int" or kind == "long" and "long" or self.real) .. (simd and lanes or "")
    end
    local id = "get_global_id(1) * get_global_size(0) + get_global_id(0)" -- see has_rows in gpu/exec_opencl.h
    line("ulong at = %s;", simd and ("(%s) * %d"):format(id, lanes) or id)
    line("if (at >= count) return;")
    if simd then
        line("// The last elements may be fewer than the lanes: the lanes behind them repeat the last one.")
        line("uint lanes = (uint)min(count - at, (ulong)%d);", lanes)
    end
    line("at += first;")
    local args = {}
    for i, input in ipairs(inputs) do
        local c_type = C_ELEMENT[input.ctype]
        local kind = root.inputs[input.index].kind
        local target = kind_type(kind)
        if simd then
            line("%s%d x%d;", c_type, lanes, i)
            line("if (lanes == %d) {", lanes)
            line("    x%d = vload%d(0, in_%d + at);", i, lanes, input.index)
            line("} else {")
            line("    %s some[%d];", c_type, lanes)
            line("    for (uint k = 0; k < %d; ++k) some[k] = in_%d[at + min(k, lanes - 1)];", lanes, input.index)
            line("    x%d = vload%d(0, some);", i, lanes)
            line("}")
        else
            line("%s x%d = in_%d[at];", c_type, i, input.index)
        end
        if kind == "bool" then
            args[i] = simd and ("convert_%s(x%d != (uchar%d)(0))"):format(target, i, lanes) or ("(x%d != 0)"):format(i)
        else
            args[i] = c_type .. (simd and lanes or "") == target and "x" .. i or ("convert_%s(x%d)"):format(target, i)
        end
    end
    for i = 2, #outputs do
        line("%s y%d = 0;", kind_type(outputs[i].kind), i)
        args[#args + 1] = "&y" .. i
    end
    self:pass_captures(root, args)
    if root.can_fail then
        line("long%s status = 0;", simd and lanes or "")
        args[#args + 1] = "&status"
    end
    line("%s y1 = %s(%s);", kind_type(outputs[1].kind), self.function_names[root], table.concat(args, ", "))
    for i, output in ipairs(outputs) do
        local c = self:stored("y" .. i, output.kind, output.ctype, lanes)
        line("%s%s z%d = %s;", C_ELEMENT[output.ctype], simd and lanes or "", i, c)
        if root.can_fail and output.holds_detail then
            local detail = ("convert_%s%s(status >> 8)"):format(output.ctype, simd and lanes or "")
            if simd then
                local narrow = output.ctype == "float" and ("convert_int%d(status != 0)"):format(lanes) or "status != 0"
                line("z%d = select(z%d, %s, %s);", i, i, detail, narrow)
            else
                line("if (status) z%d = %s;", i, detail)
            end
        end
    end
    local function store(c, vector, target, is_result)
        if not simd then
            line("%s[at] = %s;", target, c)
            return
        end
        if is_result then
            line("if (lanes == %d && is_large && (ulong)(%s + at) %% sizeof(%s%d) == 0) {", lanes, target, vector, lanes)
            line("    store_past_caches(%s, (__global %s%d *)(%s + at));", c, vector, lanes, target)
            line("} else if (lanes == %d) {", lanes)
        else
            line("if (lanes == %d) {", lanes)
        end
        line("    vstore%d(%s, 0, %s + at);", lanes, c, target)
        line("} else {")
        line("    %s some[%d];", vector, lanes)
        line("    vstore%d(%s, 0, some);", lanes, c)
        line("    for (uint k = 0; k < lanes; ++k) %s[at + k] = some[k];", target)
        line("}")
    end
    if simd then line("bool is_large = count >= %d;", emit.LARGE) end
    for i, output in ipairs(outputs) do store("z" .. i, C_ELEMENT[output.ctype], "out_" .. i, true) end
    if root.can_fail then
        store(simd and ("convert_uchar%d(status & 255)"):format(lanes) or "(uchar)(status & 255)", "uchar", "failed")
    end
    return ("#line 1 \"tidepool kernel\"\n__kernel void %s(%s)\n{\n%s\n}\n"):format(name,
        table.concat(parameters, ",\n    "), table.concat(body, "\n"))
end

local START = { sum = "0", min = "INFINITY", max = "(-INFINITY)" }
local COMBINE = { min = "lua_least", max = "lua_greatest" }

-- The kernel that reduces groups: W elements at a time in the vector form, where a work item has a group; in the scalar form, LANES work items.
function Unit:reducing_kernel(name, inputs, outputs, reduce)
    local root, combiner, lanes = self.program.root, self.program.combiner, self.lanes
    local simd = lanes > 1
    local width = simd and tostring(lanes) or ""
    local parameters = { "ulong first", "ulong count" }
    for _, input in ipairs(inputs) do
        parameters[#parameters + 1] = ("__global const %s *in_%d"):format(C_ELEMENT[input.ctype], input.index)
    end
    parameters[#parameters + 1] = ("__global %s *out_1"):format(self.real)
    if root.can_fail then parameters[#parameters + 1] = "__global uchar *failed" end
    for _, entry in ipairs(self.program.captures) do self:capture_parameters(entry, parameters) end

    local body, indent = {}, 1
    local function line(format, ...) body[#body + 1] = ("    "):rep(indent) .. format:format(...) end
    local function kind_type(kind)
        if kind == "bool" then return simd and self.mask_type or "int" end
        return (kind == "int" and "int" or kind == "long" and "long" or self.real) .. width
    end
    local function combine(a, b)
        if combiner then
            local args = { a, b }
            if simd and not is_plain(combiner) then table.insert(args, 1, ("(%s)(-1)"):format(self.mask_type)) end
            self:pass_captures(combiner, args)
            return ("%s(%s)"):format(self.function_names[combiner], table.concat(args, ", "))
        end
        if reduce == "sum" then return ("%s + %s"):format(a, b) end
        self:helper(COMBINE[reduce], lanes)
        return ("%s%s(%s, %s)"):format(COMBINE[reduce], width, a, b)
    end
    -- The first result of the element (or elements) at `offset`, added to the variable `to`.
    local function step(offset, to)
        local args = {}
        for i, input in ipairs(inputs) do
            local c_type = C_ELEMENT[input.ctype]
            local kind = root.inputs[input.index].kind
            local target = kind_type(kind)
            local x = simd and ("vload%d(0, in_%d + %s)"):format(lanes, input.index, offset) or ("in_%d[%s]"):format(input.index, offset)
            if kind == "bool" then
                args[i] = simd and ("convert_%s(%s != (uchar%d)(0))"):format(target, x, lanes) or ("(%s != 0)"):format(x)
            else
                args[i] = c_type .. width == target and x or ("convert_%s(%s)"):format(target, x)
            end
        end
        for i = 2, #outputs do
            line("%s y%d = 0;", kind_type(outputs[i].kind), i)
            args[#args + 1] = "&y" .. i
        end
        self:pass_captures(root, args)
        if root.can_fail then
            line("long%s status = 0;", width)
            args[#args + 1] = "&status"
        end
        line("%s y1 = %s(%s);", kind_type(outputs[1].kind), self.function_names[root], table.concat(args, ", "))
        if root.can_fail then
            line(simd and "if (any(status != 0)) { bad = 1; break; }" or "if (status) { bad = 1; break; }")
        end
        local value = "y1"
        if outputs[1].ctype ~= self.real then value = self:stored(value, outputs[1].kind, outputs[1].ctype, lanes) end
        if outputs[1].ctype ~= self.real or outputs[1].kind ~= "num" then value = ("convert_%s%s(%s)"):format(self.real, width, value) end
        if combiner then
            line("%s z = %s;", self.real .. width, value)
            line("if (j == 0) %s = z; else %s = %s;", to, to, combine(to, "z"))
        else
            line("%s = %s;", to, combine(to, value))
        end
    end

    local start = START[reduce] or "0"
    if simd then
        local parts = emit.LANES / lanes
        line("ulong group = get_global_id(0);")
        line("if (group >= count) return;")
        line("ulong at = first + group * %d;", emit.GROUP)
        line("int bad = 0;")
        for p = 1, parts do line("%s%d a%d = %s;", self.real, lanes, p, start) end
        line("for (ulong j = 0; j < %d; j += %d) {", emit.GROUP, emit.LANES)
        indent = 2
        for p = 1, parts do
            if parts > 1 then line("{") end
            step(("at + j + %d"):format((p - 1) * lanes), "a" .. p)
            if parts > 1 then line("}") end
        end
        indent = 1
        line("}")
        while parts > 1 do
            parts = parts / 2
            for p = 1, parts do line("a%d = %s;", p, combine("a" .. p, "a" .. (p + parts))) end
        end
        local apart = lanes / 2
        while apart >= 1 do
            local order = {}
            for k = 0, lanes - 1 do order[k + 1] = ("%x"):format((k + apart) % lanes) end
            line("a1 = %s;", combine("a1", "a1.s" .. table.concat(order)))
            apart = apart / 2
        end
        line("out_1[group] = %s;", self:stored("a1.s0", "num", self.real, 1))
        if root.can_fail then line("failed[group] = bad;") end
    else
        line("ulong group = get_global_id(0) / %d;", emit.LANES)
        line("uint lane = get_global_id(0) %% %d, here = get_local_id(0);", emit.LANES)
        line("__local %s sums[256];   // the largest work group", self.real)
        line("__local int bads[256];")
        line("%s a = %s;", self.real, start)
        line("int bad = 0;")
        line("if (group < count) {")
        line("    ulong at = first + group * %d + lane;", emit.GROUP)
        line("    for (ulong j = 0; j < %d; j += %d) {", emit.GROUP, emit.LANES)
        indent = 3
        step("at + j", "a")
        indent = 1
        line("    }")
        line("}")
        line("sums[here] = a;")
        line("bads[here] = bad;")
        line("for (uint apart = %d; apart > 0; apart /= 2) {", emit.LANES / 2)
        line("    barrier(CLK_LOCAL_MEM_FENCE);")
        line("    if (lane < apart) {")
        line("        bads[here] |= bads[here + apart];")
        line("        if (!bads[here] && group < count) sums[here] = %s;", combine("sums[here]", "sums[here + apart]"))
        line("    }")
        line("}")
        line("if (group < count && lane == 0) {")
        line("    out_1[group] = %s;", self:stored("sums[here]", "num", self.real, 1))
        if root.can_fail then line("    failed[group] = bads[here];") end
        line("}")
    end
    return ("#line 1 \"tidepool kernel\"\n__kernel void %s(%s)\n{\n%s\n}\n"):format(name,
        table.concat(parameters, ",\n    "), table.concat(body, "\n"))
end

-- Results that caches cannot hold until somebody reads them are written past them, where the compiler can: a store to a line that is in no
-- cache reads it first, which is a third of the traffic of 2 * x + 1.
local STORE_PAST_CACHES = [[
#ifdef __has_builtin
#if __has_builtin(__builtin_nontemporal_store)
#define store_past_caches(vector, to) __builtin_nontemporal_store(vector, to)
#endif
#endif
#ifndef store_past_caches
#define store_past_caches(vector, to) (*(to) = (vector))
#endif

]]

---Writes a program.
---@param program table from infer.program
---@param options table lanes, precision, needs_double, kernel (its name), inputs and outputs (as in a Translation, also with reduce), reduce
---@return string source
function emit.program(program, options)
    local single = options.precision == "single"
    local unit = setmetatable({
        program = program, lanes = options.lanes, single = single, real = single and "float" or "double",
        mask_type = (single and "int" or "long") .. options.lanes, helpers = {}, prelude = {}, functions = {},
        function_names = {}, function_count = {}, capture_names = {}, taken = {},
    }, Unit)
    for _, inst in ipairs(program.instances) do
        if inst.is_used then unit:instance(inst) end
    end
    local kernel = options.reduce and unit:reducing_kernel(options.kernel, options.inputs, options.outputs, options.reduce)
        or unit:kernel(options.kernel, options.inputs, options.outputs)
    local parts = { "// Made by Tidepool from a Lua function.\n" }
    if options.needs_double then parts[#parts + 1] = "#pragma OPENCL EXTENSION cl_khr_fp64 : enable\n" end
    parts[#parts + 1] = "#pragma OPENCL FP_CONTRACT OFF\n\n"
    if options.lanes > 1 and not options.reduce then parts[#parts + 1] = STORE_PAST_CACHES end
    parts[#parts + 1] = table.concat(unit.prelude, "\n") .. (#unit.prelude > 0 and "\n" or "")
    parts[#parts + 1] = table.concat(unit.functions, "\n") .. "\n"
    parts[#parts + 1] = kernel
    return table.concat(parts)
end

return emit
