-- runs.lua: lanes that are neighbours.
--
-- The lanes of a vector are elements that follow each other, so most often they want elements of
-- arrays that do: one parameter counts up from lane to lane, as the column of a grid does, and the
-- others are the same in all lanes. A value that is such a parameter plus what all lanes share has
-- a `run`: { var = the parameter; terms = what is added to it }. Where the parameters turn out to
-- go like that when the function runs, positions are computed once, from the first lane's, instead
-- of in each, and elements are read as one vector.

local emitter = require "tidepool.translate.emit.emitter"

local bare = emitter.bare

local runs = {}

-- The run of a local that is not assigned to, if it has one.
function runs.of_local(self, var)
    if not self.inst.simd or var.assigned then return nil end
    if self.runs[var] then return self.runs[var] end
    local kind = self.inst.vars[var].kind
    if not self.inst.is_parameter[var] or not (kind == "long" or kind == "num" and not self.single) then return nil end
    self.runs[var] = { var = var, terms = {} }
    return self.runs[var]
end

-- The run with one more term: what is added (or subtracted, by `op`) is the integer `c`, or the
-- number `real`.
local function with(run, term)
    local terms = { unpack(run.terms) }
    terms[#terms + 1] = term
    return { var = run.var, terms = terms }
end

-- The run of the sum or difference of two values, one of which varies. Only what is exact has one:
-- whole numbers, which are far from the limits of doubles where they are indexes that are right.
function runs.sum(self, op, a, b)
    local run, value = a.run, b
    if op == "+" and not run then run, value = b.run, a end
    if not run or value.varies or op ~= "+" and op ~= "-" then return nil end
    local kind, v = value.kind, value.literal
    if v and (v ~= math.floor(v) or math.abs(v) >= 2 ^ 31) then return nil end
    if kind == "num" then return not self.single and with(run, { op = op, real = value.c }) or nil end
    if not v and kind ~= "long" and kind ~= "int" then return nil end
    return with(run, { op = op, c = self:as(value, "long", false) })
end

-- Makes the run that of a new local, too, whose value it is: what is added then is put into
-- variables, since it may be another one later.
function runs.keep(self, var, run)
    local kind = self.inst.vars[var].kind
    if var.assigned or not next(self.inst.places) or kind ~= "long" and (kind ~= "num" or self.single) then return end
    local kept = { var = run.var, terms = {} }
    for i, term in ipairs(run.terms) do
        local name = self:temp "o"
        self:line("%s %s = %s;", term.real and self.real or "long", name, bare(term.real or term.c))
        kept.terms[i] = { op = term.op, real = term.real and name, c = term.c and name }
    end
    self.runs[var] = kept
end

-- May the lanes of the run be the same (`step` 0), or count up (1)?
function runs.may_step(self, run, step)
    local known = self.unit.steps[run.var]
    return known == nil or known == step
end

-- The first lane of a parameter as a long, and whether the lanes go on from there by `step`: the
-- names of variables, which are declared where the function begins. Numbers that are not whole, or
-- too large for an index, do not.
local function of_parameter(self, var, step)
    local name, is_real = self.names[var], self.inst.vars[var].kind == "num"
    self.firsts[var] = self.firsts[var] or {}
    local of = self.firsts[var]
    return self:at_start(function()
        if not of.first then
            of.first = self:temp "f"
            self:line(is_real and "long %s = fabs(%s.s0) < 2147483648.0 ? (long)%s.s0 : 0;" or "long %s = %s.s0;", of.first, name, name)
        end
        if not of[step] then
            of[step] = self:temp "b"
            local c_type, steps = self:type(is_real and "num" or "long", true), {}
            for k = 0, self.lanes - 1 do steps[k + 1] = k end
            self:line("int %s = all(%s == (%s)(%s)%s);", of[step], name, c_type, of.first,
                step == 1 and (" + (%s)(%s)"):format(c_type, table.concat(steps, ", ")) or "")
        end
        return of.first, of[step]
    end)
end

-- The first lane's value of a run, a long in a variable. What has to hold for the lanes to go on
-- from there by `step` is appended to the conditions `when`.
function runs.begin(self, run, step, when)
    local first, goes_on = of_parameter(self, run.var, step)
    local sum = { first }
    when[#when + 1] = goes_on
    for _, term in ipairs(run.terms) do
        local c = term.c
        if term.real then
            c = self:temp "o"
            self:line("long %s = fabs(%s) < 2147483648.0 ? (long)%s : 0;", c, bare(term.real), term.real)
            when[#when + 1] = ("%s == %s"):format(c, term.real)
        end
        sum[#sum + 1] = ("%s %s"):format(term.op, c)
    end
    if #sum == 1 then return first end
    local name = self:temp "f"
    self:line("long %s = %s;", name, table.concat(sum, " "))
    return name
end

return runs
