-- expressions.lua: writes expressions as C text without side effects.
--
-- What may fail, loop, or give several values is first put into a variable by a statement. Where an
-- operand of `and` or `or` needs such statements, they are put under a condition.

local infer = require "tidepool.translate.infer"
local elements = require "tidepool.translate.emit.elements"
local emitter = require "tidepool.translate.emit.emitter"
local runs = require "tidepool.translate.emit.runs"
local wide = require "tidepool.translate.wide"
local wides = require "tidepool.translate.emit.wide"

local Emitter, number_text, literal, bare = emitter.Emitter, emitter.number_text, emitter.literal, emitter.bare

local WIDE = wide.KINDS

local expression = {}

function Emitter:expr(node)
    local known = self.replaced and self.replaced[node]
    if known then return known.given and self:expr(known.given) or known end
    local constant = self.inst.constants[node]
    if constant then
        local kind = self.inst.types[node]
        kind = (kind == "int" or kind == "long") and kind or "num"
        return { c = self:as(literal(constant), kind, false), kind = kind, varies = false }
    end
    return expression[node.tag](self, node)
end

function expression.Paren(self, node) return self:expr(node.expr) end
function expression.Nil() return { c = "0", kind = "nil", varies = false } end
function expression.True() return { c = "1", kind = "bool", varies = false } end
function expression.False() return { c = "0", kind = "bool", varies = false } end

function expression.Number(self, node)
    if self.inst.types[node] == "k" then return literal(node.value) end
    return { c = number_text(node.value, self.single), exact = node.value, kind = "num", varies = false }
end

function expression.Wide(_, node)
    local kind = wide.kind_of(node.value)
    return { c = wide.constant(node.value, kind), kind = kind, varies = false }
end

local function captured(self, static)
    local value = static.value
    if type(value) == "boolean" then return { c = value and "1" or "0", kind = "bool", varies = false } end
    if value == nil then return { c = "0", kind = "nil", varies = false } end
    local entry = self.inst.captured["number" .. static.key]
    return { c = self.unit:capture_name(entry), kind = entry.ctype or "num", varies = false }
end

function expression.Name(self, node)
    local static = infer.static_of(self.inst, node)
    if static then return captured(self, static) end
    if self.inst.states[node] == "nil" then return { c = "0", kind = "nil", varies = false } end
    local known, range = self.inst.vars[node.var], self.ranges[node.var]
    if range then return self:int(range.c, unpack(range)) end
    -- nothing gives it a value: nobody comes here, as to the elements of a list that stays empty
    if not known.kind then return { c = number_text(0, self.single), kind = "num", varies = false } end
    return { c = self.names[node.var], kind = known.kind == "k" and "num" or known.kind or "num", varies = known.varies,
             run = known.varies and runs.of_local(self, node.var) or nil }
end

-- The index of the element that a:set(y, x, v) writes, and an element of a matrix, a:at(y, x,
-- border).
expression.Place, expression.Method = elements.place, elements.method

-- A number as an element of that type would be; what has to be whole, and is not, fails.
function expression.Operand(self, node)
    local value, kind, code = self:hold(self:expr(node.expr)), self.inst.types[node], self.inst.codes[node]
    if code and not value.literal then
        local right = ("%s(%s)"):format(self:need("lua_is_rounded", value.varies), value.c)
        if value.varies then
            local bad = self:temp "m"
            self:line("%s %s = %s;", self.mask_type, bad, bare(self:masked("~" .. right)))
            self:open("if (any(%s)) {", bad)
            self:fail(("%d"):format(code), bad, { value.c })
        else
            self:open("if (!%s) {", right)
            self:fail(("%d"):format(code), nil, { value.c })
        end
        self:close()
    end
    if WIDE[kind] then return { c = self:as(value, kind, value.varies), kind = kind, varies = value.varies } end
    local from = value.kind == "k" and "num" or value.kind
    local c = self.unit:stored(self:as(value, from, value.varies), from, node.ctype, value.varies and self.lanes or 1)
    if kind == "num" then c = ("convert_%s(%s)"):format(self:type(kind, value.varies), bare(c)) end
    return { c = c, kind = kind, varies = value.varies }
end

function expression.Fixed(self, node) return captured(self, node.static) end

-- The type of one lane of a variable that differs between lanes.
function Emitter:lane_type(kind)
    return (self:type(kind, true):gsub("%d+$", ""))
end

-- An index into a room. It is in range for lanes that are on; for others it must be one, too.
function Emitter:room_place(index, size)
    if index.literal then return ("%d"):format(math.max(0, math.min(index.literal, size - 1))) end
    return ("min((uint)(%s), %du)"):format(bare(index.c), size - 1)
end

-- The same for all lanes.
function Emitter:room_places(index, size)
    local at = self:temp "k"
    self:line("uint%d %s = min(convert_uint%d(%s), (uint%d)(%du));", self.lanes, at, self.lanes, bare(index.c), self.lanes, size - 1)
    return at
end

function expression.Cell(self, node)
    local known = self.inst.vars[node.var]
    local kind, name = known.kind, self.names[node.var]
    if not kind then return { c = "0", kind = "num", varies = false } end
    local index = self:expr(node.index)
    local t = self:temp "t"
    if not index.varies then
        self:line("%s %s = %s[%s];", self:type(kind, known.varies), t, name, self:room_place(index, known.room))
        return { c = t, kind = kind, varies = known.varies }
    end
    local at, lanes = self:room_places(index, known.room), {}
    for k = 0, self.lanes - 1 do lanes[k + 1] = ("((%s *)%s)[%s.s%x * %d + %d]"):format(self:lane_type(kind), name, at, k, self.lanes, k) end
    self:line("%s %s = (%s)(%s);", self:type(kind, true), t, self:type(kind, true), table.concat(lanes, ", "))
    return { c = t, kind = kind, varies = true }
end

function expression.Index(self, node)
    local static = infer.static_of(self.inst, node)
    if static then return captured(self, static) end
    return elements.element(self, node)
end

function expression.Unop(self, node)
    if node.op == "not" then
        local value = self:condition(node.expr)
        return { c = ("(%s%s)"):format(value.varies and "~" or "!", value.c), kind = "bool", varies = value.varies }
    elseif node.op == "#" then
        local number = self.inst.lengths[node]
        if number then return { c = self.unit:capture_name(self.inst.captured["number" .. number.key]), kind = "num", varies = false } end
        local static = infer.static_of(self.inst, node.expr)
        local _, length = self.unit:capture_name(self.inst.captured["array" .. static.key])
        return self:int(length, 0, 2 ^ 31 - 1)
    end
    local value = self:expr(node.expr)
    if value.literal and value.literal ~= 0 then return literal(-value.literal) end
    if WIDE[value.kind] then return { c = ("(-%s)"):format(value.c), kind = value.kind, varies = value.varies } end
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
    if WIDE[a.kind] or WIDE[b.kind] then return wides.compare(self, C_COMPARE[op], a, b) end
    local kind = "num"
    for _, each in ipairs { "int", "long" } do
        if (a.kind == each or a.literal) and (b.kind == each or b.literal) and not (a.literal and b.literal) then kind = each end
    end
    local x, y = self:as(a, kind, varies), self:as(b, kind, varies)
    if kind == "long" and not varies and self:narrow(a) and self:narrow(b) then x, y = self:narrow(a), self:narrow(b) end
    local c = ("(%s %s %s)"):format(x, C_COMPARE[op], y)
    if varies and (kind == "num" and self.single or kind == "int") ~= self.single then
        c = ("convert_%s%s"):format(self.mask_type, c)
    end
    return { c = c, kind = "bool", varies = varies }
end

function expression.Binop(self, node)
    local op = node.op
    local truth = infer.truth_of(self.inst, node)
    if truth ~= nil then return { c = truth and "1" or "0", kind = "bool", varies = false } end
    local a, b = self:expr(node.left), self:expr(node.right)
    if C_COMPARE[op] then return compare(self, op, a, b) end
    if WIDE[a.kind] or WIDE[b.kind] then return wides.binop(self, op, a, b) end
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
    if kind == "long" and not varies and self:narrow(a) and self:narrow(b) then
        local low, high = self:range_of(a)
        local from, to = self:range_of(b)
        if op == "-" then from, to = -to, -from end
        low, high = low + from, high + to
        if low >= -2 ^ 31 and high < 2 ^ 31 then return self:int(("(%s %s %s)"):format(self:narrow(a), op, self:narrow(b)), low, high) end
    end
    -- C widens a scalar operand of a vector one.
    return { c = ("(%s %s %s)"):format(self:as(a, kind, a.varies), op, self:as(b, kind, b.varies)), kind = kind,
             varies = varies, run = varies and runs.sum(self, op, a, b) or nil }
end

-- Writes the right operand of `and` or `or`, for the lanes in `cond` only. Gives its value and the
-- lines that it needs, which belong under the condition and are not written yet.
function Emitter:lazily(cond, want, evaluate)
    local entry
    local chain = #self.chain
    self.indent = self.indent + 1
    local opened
    local value, lines = self:aside(function()
        if cond.varies then
            -- The line of the mask comes first. It is kept apart, since it may not be needed.
            local _, declared = self:aside(function() entry = self:push_mask(self:masked(want(cond.c)), nil) end)
            opened = declared
        end
        return evaluate()
    end)
    self.indent = self.indent - 1
    while #self.chain > chain do self:pop_mask() end
    return value, lines, opened, entry
end

-- Declares a variable, and under a condition gives it a value, with the lines which that needs.
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

-- The kind of the number in a value that is one or false: a real one, or a 64-bit integer.
local function kind_inside(value) return WIDE[value.kind] and value.kind or "num" end

-- The same for a value that is a number or false.
function Emitter:conditional_maybe(cond, want, value, lines, opened, entry)
    local varies = cond.varies or value.varies
    local kept, kind = self:temp "t", kind_inside(value.value)
    self:line("%s %s = 0;", self:type(kind, varies), kept)
    local _, more = self:aside(function()
        self.indent = self.indent + 1
        local c = self:as(value.value, kind, varies)
        self:line("%s = %s;", kept, entry and ("select(%s, %s, %s)"):format(kept, bare(c), self:mask_for(kind, entry.name))
            or bare(c))
        self.indent = self.indent - 1
    end)
    for _, line in ipairs(more) do lines[#lines + 1] = line end
    local truth = self:conditional(cond, want, "bool", varies, "0", value.cond, lines, opened, entry)
    return { kind = "maybe", cond = truth, value = { c = kept, kind = kind, varies = varies }, varies = varies }
end

local function as_is(c) return c end

-- `not` of a condition's text.
local function negation(cond)
    return function(c) return ("(%s%s)"):format(cond.varies and "~" or "!", c) end
end

-- cond ? a : b, where neither needs statements.
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

-- Puts the text into a variable, so that it is not evaluated twice, or after later statements.
function Emitter:hold(value)
    if value.literal or value.c:find "^[%w_]+$" then return value end
    local t = self:temp "t"
    self:line("%s %s = %s;", self:type_of(value), t, bare(value.c))
    return { c = t, kind = value.kind, varies = value.varies, range = value.range, run = value.run }
end

local function both(self, a, b, op)
    local varies = a.varies or b.varies
    local sign = varies and (op == "and" and "&" or "|") or (op == "and" and "&&" or "||")
    return { c = ("(%s %s %s)"):format(self:as(a, "bool", varies), sign, self:as(b, "bool", varies)), kind = "bool",
             varies = varies }
end

-- `a and b` or `a or b`, where only the truth is wanted or both operands are booleans.
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
    if not wide.MAYBE[kind] then   -- the left side is a number: always true
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
        local varies, of = left.varies or value.varies, kind_inside(value)
        value = self:conditional(left, as_is, of, varies, self:as(literal(0), of, varies), value, lines, opened, entry)
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
        local chosen = self:choose(cond, kind_inside(value), value, right.value)
        return { kind = "maybe", cond = both(self, cond, right.cond, "or"), value = chosen,
                 varies = cond.varies or chosen.varies }
    end
    local kind = kind_inside(value)
    if #lines == 0 then return self:choose(cond, kind, value, right) end
    cond = self:hold(cond)
    local varies = cond.varies or value.varies or right.varies
    return self:conditional(cond, negation(cond), kind, varies, self:as(value, kind, varies), right, lines, opened, entry)
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

return { by_tag = expression, compare = compare }
